"""`experiments.evaluate`: what a run wrote down is measured again, from its folder and from seed and mask alone."""

import json
import shutil

import pytest

from experiments.commands.program import run
from rare_gems.storage import ticket_file


def evaluated(capsys, *args):
    assert run("evaluate", [str(arg) for arg in args]) == 0
    return capsys.readouterr().out


def refused(capsys, command, *args):
    assert run(command, [str(arg) for arg in args]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    return err.removeprefix(f"experiments.{command}: error: ")


@pytest.fixture(scope="module")
def seed(small_run, tmp_path_factory):
    file = tmp_path_factory.mktemp("seed") / "ticket.json"
    assert run("export", [str(small_run), "--to=seed", f"--output={file}"]) == 0
    return file


def test_a_run_and_its_seed_have_the_accuracies_of_the_run(small_run, seed, capsys):
    noted = json.loads((small_run / "summary.json").read_text())["accuracy"]
    before, after = (f"{noted[f'{when}_finetune']:.2%}" for when in ("before", "after"))
    assert before != after
    lines = evaluated(capsys, small_run).splitlines()
    assert lines[0].startswith("lenet_300_100 on digits: accuracy on the test set")
    assert [line.split()[-2:] for line in lines[2:]] == [[before, before], [after, after]]
    assert "25,100 of 50,200" in lines[2]
    (line,) = evaluated(capsys, seed).splitlines()[2:]
    assert line.split()[-1] == before
    assert seed.stat().st_size < 20_000


def test_weights_that_the_seed_does_not_draw_are_refused(small_run, small_copy, seed, tmp_path, capsys):
    trained = ticket_file.load(small_run / "ticket.safetensors")
    ticket_file.save(small_copy / "ticket.safetensors", trained.ticket, metadata={"method": "imp", "seed": 42},
                     initial=trained.ticket.params, model_state=trained.model_state)  # fmt: skip
    message = refused(capsys, "export", small_copy, "--to=seed")
    assert "expected a ticket of weights as they are drawn, got trained ones in" in message
    entries = json.loads(seed.read_text())
    entries["config"]["seed"] = 43
    other = tmp_path / "other.json"
    other.write_text(json.dumps(entries))
    assert "expected the weights that its mask was chosen from, got others in" in refused(capsys, "evaluate", other)
    other.write_text(json.dumps(entries | {"config": {"pruner": "magic"}}))
    assert f"{other}: expected the configuration of a run" in refused(capsys, "evaluate", other)


def test_mistakes(small_run, tmp_path, capsys):
    assert "got nothing there" in refused(capsys, "evaluate", tmp_path / "nowhere")
    assert "without config.json" in refused(capsys, "evaluate", tmp_path)
    assert "expected a ticket by its seed" in refused(capsys, "evaluate", small_run / "summary.json")
    assert "expected a ticket by its seed" in refused(capsys, "evaluate", small_run / "ticket.safetensors")
    shutil.copy(small_run / "ticket.safetensors", tmp_path / "alone.safetensors")
    message = refused(capsys, "export", tmp_path / "alone.safetensors", "--to=seed", f"--output={tmp_path}/a.json")
    assert "expected a run folder" in message
    assert "ends in .json" in refused(capsys, "export", small_run, "--to=seed", f"--output={tmp_path}/a.txt")
