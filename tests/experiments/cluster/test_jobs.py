"""A comparison spread over jobs: real local ones, stand-ins for workers, and a stand-in for SLURM."""

import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import submitit

from experiments.cluster import collector, share, worker
from experiments.cluster.flags import Launch, Slurm
from experiments.commands.program import run
from experiments.comparison import make
from experiments.papers.table import ITEMS
from experiments.reproduction.choose import Chosen
from experiments.reproduction.spread import Wanted, spread
from experiments.run_folder.folder import held
from experiments.terminal.errors import Busy, Interrupted, UsageError

RUNS = ["digits", "--pruners=random,magnitude", "--sparsities=0.5", "--no-dense", "--model=lenet_300_100",
        "--train-examples=100", "--batch-size=50", "--finetune-epochs=0"]  # fmt: skip


def _have_run(tmp_path, script, launch, shares=2):
    """run_jobs with a shell script in place of the worker, which finishes share k by making k/done in $0."""
    runs = [tmp_path / str(k) for k in range(shares)]
    for place in runs:
        place.mkdir(exist_ok=True)
    script = 'k=${RARE_GEMS_JOB%/*}; finish() { touch "$0/$k/done"; }; ' + script
    command = ["bash", "-c", script, str(tmp_path)]
    return collector.run_jobs(
        launch, command, tmp_path / "jobs", lambda: [place for place in runs if not (place / "done").exists()]
    )


def test_two_local_jobs_share_a_comparison(tmp_path, capfd):
    command = [*RUNS, f"--run-dir={tmp_path}/runs"]
    assert run("compare", [*command, "--launcher=local", "--num-jobs=3"]) == 0
    out, err = capfd.readouterr()
    for word in ("random", "magnitude", "25,100"):
        assert word in out
    assert err.count("submitted; its log") == 2  # as many jobs as there are runs
    logs = [path.read_text() for path in (tmp_path / "runs" / "jobs").glob("*_0_log.err")]
    begun = sorted(line for log in logs for line in log.splitlines() if line.endswith(" 0 done"))
    assert [line.split(":")[0] for line in begun] == ["digits magnitude", "digits random"]  # each once
    assert [log.count(" 0 done") for log in logs] == [1, 1]
    tickets = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("ticket.safetensors")}
    assert run("compare", command) == 0  # the same folder without a launcher: all is there
    assert run("compare", [*command, "--launcher=local", "--num-jobs=2"]) == 0
    out, err = capfd.readouterr()
    assert out.count("25,100") == 2
    assert "submitted" not in err
    assert {path: path.stat().st_mtime_ns for path in tickets} == tickets


def test_a_stopped_job_is_submitted_again_and_a_failed_one_told(tmp_path, capfd):
    first = 'if [ $k = 0 ]; then echo "loss is nan" >&2; exit 3; fi; '
    again = '[ -e "$0/again" ] && { finish; exit 0; }; touch "$0/again"; exit 75'
    (failure,) = _have_run(tmp_path, first + again, Launch("local", 2))
    assert "ended with status 3: loss is nan; its log: " in failure
    assert "loss is nan" in Path(failure.split("its log: ")[1]).read_text()
    err = capfd.readouterr().err
    assert err.count(" submitted") == 3
    assert "submitted (again, 1 of at most 10 times)" in err
    assert (tmp_path / "1" / "done").exists()


def test_a_job_is_submitted_again_a_bounded_number_of_times(tmp_path, monkeypatch):
    monkeypatch.setattr(collector, "_RESTARTS", 1)
    (failure,) = _have_run(tmp_path, 'echo x >> "$0/tries"; exit 75', Launch("local", 1), 1)
    assert "stopped" in failure
    assert (tmp_path / "tries").read_text() == "x\nx\n"


def test_stopping_the_collector_stops_local_jobs(tmp_path):
    def stop():
        deadline = time.monotonic() + 60
        while not (tmp_path / "ready").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop).start()
    save = 'trap \'sleep 0.3; echo saved >> "$0/saved"; exit 75\' TERM; touch "$0/ready"; while :; do sleep 0.1; done'
    with pytest.raises(Interrupted, match="stopped and saved") as caught:
        _have_run(tmp_path, save, Launch("local", 1), 1)
    assert caught.value.args[1] == signal.SIGTERM
    assert (tmp_path / "saved").read_text() == "saved\n"


def test_jobs_of_a_killed_collector_are_waited_for(tmp_path, capfd):
    script = 'echo x >> "$0/begun"; while [ ! -e "$0/go" ]; do sleep 0.1; done; finish'
    program = (
        "import sys; from pathlib import Path; from experiments.cluster import collector, flags;"
        "at = Path(sys.argv[1]); launch = flags.Launch('local', 1);"
        "command = ['bash', '-c', 'k=0; finish() { touch $0/0/done; };' + sys.argv[2], sys.argv[1]];"
        "collector.run_jobs(launch, command, at / 'jobs', lambda: [at / '0'])"
    )
    first = subprocess.Popen([sys.executable, "-c", program, str(tmp_path), script])
    while not (tmp_path / "begun").exists() and first.poll() is None:
        time.sleep(0.05)
    first.kill()
    first.wait()
    threading.Timer(0.5, (tmp_path / "go").touch).start()
    assert _have_run(tmp_path, script, Launch("local", 1), 1) == []
    assert "is still there" in capfd.readouterr().err
    assert (tmp_path / "begun").read_text() == "x\n"


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """sbatch that runs the script at once, and srun; sacct says what lies in the file `state`."""
    programs = {
        "sbatch": f"""id=$(( $(ls {tmp_path}/scripts | wc -l) + 7 )); cp $1 {tmp_path}/scripts/$id.sh
            SLURM_JOB_ID=$id bash $1 >{tmp_path}/$id.log 2>&1 & echo "Submitted batch job $id" """,
        "srun": f'echo "$*" >{tmp_path}/srun; shift 6; exec "$@"',  # --unbuffered --output FILE --error FILE --cpus
        "sacct": f'echo "JobID|State|NodeList"; cat {tmp_path}/state',
    }
    (tmp_path / "bin").mkdir()
    (tmp_path / "scripts").mkdir()
    (tmp_path / "state").write_text("7|RUNNING|a\n8|RUNNING|a\n")
    for name, text in programs.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    return tmp_path


def test_slurm_is_asked_for_what_the_flags_say(slurm, capfd):
    asked = Slurm("long", "mine", "h200", time_minutes=90, gpus_per_job=2, cpus_per_job=6, memory_gb=20)
    again = '[ -e "$0/again" ] && { finish; exit 0; }; touch "$0/again"; kill -USR2 $PPID; exec sleep 9'
    assert _have_run(slurm, again, Launch("slurm", 1, asked), 1) == []  # the time was up once
    first, second = sorted((slurm / "scripts").iterdir())
    lines = set(first.read_text().splitlines())
    assert lines >= {f"#SBATCH --{option}" for option in (
        "partition=long", "account=mine", "constraint=h200", "time=90", "gpus-per-node=2", "cpus-per-task=6",
        "mem=20GB", "job-name=rare_gems", f"error={slurm}/jobs/%j_0_log.err",
    )}  # fmt: skip
    assert "--cpus-per-task=6" in (slurm / "srun").read_text()
    assert second.read_text() == first.read_text()
    assert "job 8 submitted (again" in capfd.readouterr().err


def test_slurm_jobs_that_are_still_there_are_not_submitted_again(slurm, capfd, monkeypatch):
    """The job runs the same command without the flags of the launcher."""
    told = f"kill -INT {os.getpid()}"  # Ctrl-C while a job is submitted
    (slurm / "bin" / "sbatch").write_text(f"#!/bin/bash\n{told}; echo Submitted batch job 7\n")
    command = [*RUNS, f"--run-dir={slurm}/runs", "--launcher", "slurm", "--num-jobs=1", "--slurm.partition=long"]
    folder = slurm / "runs" / "jobs"
    assert run("compare", command) == 130
    assert "the jobs go on, the same command waits for them, and scancel 7 ends them" in capfd.readouterr().err
    started, own, on = submitit.SlurmJob(folder, "7").submission().args
    assert started == [sys.executable, "-m", "experiments.compare", *RUNS, f"--run-dir={slurm}/runs"]
    assert own == {"RARE_GEMS_JOB": "0/1"}
    assert not on  # the cluster says which cores
    threading.Timer(1, lambda: (slurm / "state").write_text("7|CANCELLED by 0|a\n")).start()
    (slurm / "bin" / "sbatch").write_text("#!/bin/bash\necho sbatch: error: invalid partition >&2; exit 1\n")
    monkeypatch.setattr(submitit.SlurmJob, "_results_timeout_s", 0)
    assert run("compare", command) == 3
    err = capfd.readouterr().err
    assert "job 7 is still there" in err
    assert "invalid partition" in err.splitlines()[-1]  # it was not this collector's, so another was tried
    assert run("compare", [*RUNS, f"--run-dir={slurm}/new", *command[-4:]]) == 2
    assert "error: --launcher=slurm: the job was refused: sbatch: error: invalid partition" in capfd.readouterr().err


def test_workers_begin_at_different_runs_and_without_locks_keep_to_their_own(tmp_path, monkeypatch):
    (tmp_path / "jobs").mkdir()
    names, done = list("abcde"), []

    def settle(i):
        done.append(names[i])
        if names[i] == "e":
            raise Busy("another's")

    monkeypatch.setenv("RARE_GEMS_JOB", "1/2")
    with (tmp_path / "jobs" / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert share.go_through(names, settle, tmp_path) == []
    assert done == ["c", "d", "e", "a", "b", "e"]  # and does not wait for another's
    done.clear()
    monkeypatch.setenv("RARE_GEMS_JOB", "0/2")
    share.go_through(names, settle, tmp_path)
    assert done == ["a", "b"]


def test_local_jobs_take_turns_at_the_gpus(monkeypatch, tmp_path):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,GPU-5")
    assert [worker.devices(f"{k}/2") for k in range(2)] == [
        {"CUDA_VISIBLE_DEVICES": "2"}, {"CUDA_VISIBLE_DEVICES": "GPU-5"}
    ]  # fmt: skip
    assert worker.devices("2/3") == {"CUDA_VISIBLE_DEVICES": "2", "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.450"}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert worker.devices("2/3") == {"CUDA_VISIBLE_DEVICES": ""}
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert worker.devices("1/3") == {"CUDA_VISIBLE_DEVICES": None}
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho 'GPU 0: A'\necho '  MIG 1g'\necho 'GPU 1: B'\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    assert worker.devices("1/2") == {"CUDA_VISIBLE_DEVICES": "1"}


def test_local_jobs_keep_to_their_share_of_the_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {1, 2, 5, 6, 9}, raising=False)
    assert [worker.cores(f"{job}/2") for job in range(2)] == [{1, 2}, {5, 6, 9}]
    assert [worker.cores(f"{job}/5") for job in range(5)] == [{1}, {2}, {5}, {6}, {9}]
    assert worker.cores("3/6") == set()  # they take turns
    monkeypatch.delattr(os, "sched_getaffinity")
    assert worker.cores("0/2") == set()


@pytest.mark.parametrize(
    ("flags", "scale", "asked", "jobs"),
    [
        ((), "paper", Launch(), 3),
        ((), "paper", Launch("here"), None),
        ((), "paper", Launch("local", 2), 2),
        ((), "small", Launch(), None),  # too short
        (("--at-once=2",), "paper", Launch(), None),
        (("--model=resnet20",), "paper", Launch(), None),  # convolutions use all cores
    ],
)
def test_long_runs_of_dense_layers_are_local_jobs_of_a_core_each(flags, scale, asked, jobs, tmp_path, monkeypatch):
    wanted = Wanted(scale, tmp_path, list(flags), num_seeds=2, chosen=Chosen(("LeNet",)))
    (runs,) = spread(ITEMS["stabilizing-figure-3"], wanted)
    planned = make.plans(runs.combinations)
    monkeypatch.setattr(make, "cores", lambda share: {0, 1, 2})
    launch, told = make.launch_for(asked, runs.combinations, planned)
    assert launch == (Launch() if jobs is None else Launch("local", jobs))
    assert bool(told) == (jobs == 3)
    monkeypatch.setattr(make, "has_submitit", lambda: False)
    if jobs == 3:
        launch, (line,) = make.launch_for(asked, runs.combinations, planned)
        assert launch == Launch()
        assert "pip install 'rare_gems[slurm]'" in line
    monkeypatch.setenv("RARE_GEMS_JOB", "0/2")
    assert make.launch_for(Launch(), runs.combinations, planned) == (Launch(), [])


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc")
def test_a_worker_takes_the_signals_of_its_own(tmp_path):
    """While a job is submitted Ctrl-C waits, which the job inherits."""
    assert _have_run(tmp_path, 'grep SigBlk /proc/self/status >"$0/mask"; finish', Launch("local", 1), 1) == []
    assert int((tmp_path / "mask").read_text().split()[1], 16) == 0


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no cores to choose")
def test_a_worker_runs_on_the_cores_of_its_job(tmp_path):
    first = min(os.sched_getaffinity(0))
    script = f"import os; open({str(tmp_path / 'on')!r}, 'w').write(str(sorted(os.sched_getaffinity(0))))"
    command = [sys.executable, "-c", script]
    job = f"from experiments.cluster import worker; raise SystemExit(worker.work({command!r}, {{}}, {{{first}}}))"
    subprocess.run([sys.executable, "-c", job], check=True, timeout=60)
    assert (tmp_path / "on").read_text() == f"[{first}]"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--num-jobs=2"], "--num-jobs: expected --launcher=local or --launcher=slurm"),
        (["--launcher=local"], "--launcher=local: expected --num-jobs"),
        (["--launcher=local", "--num-jobs=0"], "--num-jobs: expected 1 or more, got 0"),
        (["--launcher=local", "--num-jobs=2", "--slurm.gpus-per-job=2"], "--slurm.gpus-per-job: expected --launcher"),
        (["--launcher=slurm", "--num-jobs=2", "--slurm.time-minutes=0"], "--slurm.time-minutes: expected 1 or more"),
        (["--launcher=slurm", "--num-jobs=2", "--slurm.memory-gb=nan"], "--slurm.memory-gb: expected"),
        (["--launcher=slurm", "--num-jobs=2"], "SLURM's sbatch"),
        (["--launcher=cloud", "--num-jobs=2"], "cloud"),
        (["--launcher=local", "--num-jobs=2", "--pruners=random", "--gem-miner.period=2"], "none of random takes it"),
    ],
)
def test_mistakes(flags, message, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert run("compare", [*RUNS[:1], *flags, f"--run-dir={tmp_path}/runs"]) == 2
    err = capsys.readouterr().err
    assert err.strip().count("\n") == 0, err
    assert message in err
    assert not (tmp_path / "runs").exists()


def test_submitit_is_needed(capsys, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert run("compare", [*RUNS, "--launcher=local", "--num-jobs=2"]) == 2
    assert "expected submitit, which is not installed; pip install 'rare_gems[slurm]'" in capsys.readouterr().err


def test_one_collector_at_a_time(tmp_path):
    (tmp_path / "jobs").mkdir()
    with held(tmp_path / "jobs"), pytest.raises(UsageError, match="another process waits for these jobs"):
        _have_run(tmp_path, "finish", Launch("local", 1), 1)
    assert not (tmp_path / "0" / "done").exists()
