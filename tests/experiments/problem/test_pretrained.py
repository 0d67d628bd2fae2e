"""--pretrained with PyTorch weights: a jackpot and GEM-MINER search in them, and what is refused."""

import dataclasses
import json
import re

import numpy as np
import pytest
from safetensors.numpy import save_file

from experiments.commands.program import run
from experiments.config.parse import parse
from experiments.config.saved import digest, fields_of, from_fields
from experiments.problem.initial_ticket import check_pretrained, initial_ticket
from experiments.problem.network import network_for
from experiments.terminal.errors import UsageError
from rare_gems.models.lenet import lenet_300_100
from rare_gems.storage import ticket_file
from tests.models.torch_golden import written

SIZES = (64, 300, 100, 10)
COMMON = ["--model=lenet_300_100", "--sparsity=0.5", "--epochs=2", "--train-examples=100", "--batch-size=25"]


@pytest.fixture
def weights(tmp_path):
    """A LeNet-300-100 as PyTorch would store it, for the digits."""
    rng, tensors = np.random.default_rng(0), {}
    for i in (1, 2, 3):
        tensors[f"fc{i}.weight"] = (rng.standard_normal((SIZES[i], SIZES[i - 1])) / 10).astype(np.float32)
        tensors[f"fc{i}.bias"] = rng.standard_normal(SIZES[i]).astype(np.float32)
    save_file(tensors, tmp_path / "lenet.safetensors")
    return tmp_path / "lenet.safetensors", tensors


def test_a_jackpot_in_imported_weights(weights, tmp_path):
    file, tensors = weights
    folder = tmp_path / "run"
    command = ["--pruner=jackpot", *COMMON, f"--pretrained={file}", f"--run-dir={folder}"]
    assert run("digits", command) == 0
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["num_kept"] == 25_100  # half of 64 * 300 + 300 * 100 + 100 * 10, rounded half to even
    ticket = ticket_file.load(folder / "ticket.safetensors").ticket
    for i in (1, 2, 3):
        layer, mask = ticket.params[f"linear{i}"], ticket.mask[f"linear{i}"]["kernel"]
        np.testing.assert_array_equal(layer["kernel"], np.where(mask, tensors[f"fc{i}.weight"].T, 0))
        np.testing.assert_array_equal(layer["bias"], tensors[f"fc{i}.bias"])
    assert run("digits", command) == 0  # finished: it is reported


@pytest.mark.parametrize(("flags", "expected"), [([], 0), (["--no-normalize"], 1)])
def test_weights_of_torch_and_pixels_that_are_not_normalized(flags, expected, weights):
    config, _ = parse("digits", ["--pruner=jackpot", *COMMON, f"--pretrained={weights[0]}", *flags])
    told = check_pretrained(config)
    assert sum("pixels stay in [0, 1] (--no-normalize)" in note for note in told) == expected


def test_other_weights_are_another_run(weights, tmp_path, capsys):
    file, _ = weights
    command = ["--pruner=gem_miner", *COMMON, "--finetune-epochs=1", "--gem-miner.period=1", f"--run-dir={tmp_path}/a"]
    assert run("digits", [*command, f"--pretrained={file}"]) == 0
    assert run("digits", command) == 2
    assert "lenet.safetensors' there, None here" in capsys.readouterr().err


def test_the_classifier_is_replaced_for_other_classes(weights, tmp_path):
    _, tensors = weights
    tensors |= {"fc3.weight": np.zeros((1000, 100), np.float32), "fc3.bias": np.zeros(1000, np.float32)}
    file = tmp_path / "thousand.safetensors"
    save_file(tensors, file)
    flags = ["--pruner=gem_miner", *COMMON, "--gem-miner.period=1", f"--pretrained={file}"]
    config, _ = parse("digits", [*flags, "--replace-classifier"])
    model = network_for(config, (8, 8, 1), 10)
    ticket, _ = initial_ticket(model, config)
    np.testing.assert_array_equal(ticket.params["linear2"]["kernel"], tensors["fc2.weight"].T)
    kernel = np.asarray(ticket.params["linear3"]["kernel"])
    assert kernel.shape == (100, 10)
    assert 0.1 < kernel.std() < 0.2  # sqrt(2 / 100)
    with pytest.raises(UsageError, match=r"--pretrained: .*misshapen .*fc3.weight: .*try --replace-classifier"):
        initial_ticket(model, parse("digits", flags)[0])
    other, _ = initial_ticket(model, parse("digits", [*flags, "--replace-classifier", "--seed=1"])[0])
    assert not np.array_equal(other.params["linear3"]["kernel"], kernel)  # drawn by the run's seed


def test_what_is_no_file_of_weights(tmp_path):
    def start(path, *flags):
        config, _ = parse("digits", ["--pruner=jackpot", *COMMON, f"--pretrained={path}", *flags])
        return initial_ticket(network_for(config, (8, 8, 1), 10), config)

    (tmp_path / "cut.safetensors").write_bytes(b"\x20\0\0\0\0\0\0\0{")
    with pytest.raises(UsageError, match=r"--pretrained: .*cut.safetensors: cut off"):
        start(tmp_path / "cut.safetensors")
    with pytest.raises(UsageError, match=r"--pretrained: .*nowhere.pt is not there; expected the folder"):
        start(tmp_path / "nowhere.pt")
    (tmp_path / "ticket.safetensors").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"ticket.safetensors: cut off"):
        start(tmp_path / "ticket.safetensors")
    with pytest.raises(UsageError, match="--replace-classifier: there are no weights"):
        parse("digits", [*COMMON, "--gem-miner.period=1", "--replace-classifier"])


def test_the_classifier_of_our_own_run_is_replaced(tmp_path):
    """A network of another number of classes, as a dense run of ours would have left it."""
    other, _ = initial_ticket(lenet_300_100(7, input_size=64), parse("digits", ["--model=lenet_300_100"])[0])
    ticket_file.save(tmp_path / "ticket.safetensors", other, metadata={}, model_state={})
    flags = ["--pruner=gem_miner", *COMMON, "--gem-miner.period=1", f"--pretrained={tmp_path}"]
    config, _ = parse("digits", [*flags, "--replace-classifier"])
    model = network_for(config, (8, 8, 1), 10)
    ticket, _ = initial_ticket(model, config)
    np.testing.assert_array_equal(ticket.params["linear1"]["kernel"], other.params["linear1"]["kernel"])
    assert ticket.params["linear3"]["kernel"].shape == (100, 10)
    with pytest.raises(ValueError, match=r"linear3"):
        initial_ticket(model, parse("digits", flags)[0])


@pytest.mark.parametrize(("value", "dtype"), [(np.nan, np.float32), (-np.inf, np.float32), (1e300, np.float64)])
def test_numbers_that_are_not_finite_are_refused(value, dtype, weights, tmp_path, capsys):
    _, tensors = weights
    tensors["fc2.weight"] = tensors["fc2.weight"].astype(dtype)
    tensors["fc2.weight"][3, 4] = value
    save_file(tensors, tmp_path / "bad.safetensors")
    flags = [
        "--pruner=magnitude",
        "--model=lenet_300_100",
        "--finetune-epochs=0",
        f"--pretrained={tmp_path}/bad.safetensors",
    ]
    assert run("digits", [*flags, f"--run-dir={tmp_path}/run"]) == 2
    error = capsys.readouterr().err
    assert "bad.safetensors: expected finite numbers" in error
    assert "linear2/kernel" in error
    assert not (tmp_path / "run").exists()


def notes_of(path, *flags):
    config, _ = parse("digits", ["--pruner=magnitude", "--model=lenet_300_100", f"--pretrained={path}", *flags])
    return check_pretrained(config)


def test_the_mask_of_a_pruned_network_is_kept_by_magnitude(weights, tmp_path):
    """torch.nn.utils.prune removes 70 % of the second layer; the search begins with those weights at zero."""
    _, tensors = weights
    mask = np.random.default_rng(1).permutation(30_000).reshape(100, 300) >= 21_000
    tensors |= {"fc2.weight_orig": tensors.pop("fc2.weight"), "fc2.weight_mask": mask.astype(np.float32)}
    file = tmp_path / "pruned.safetensors"
    save_file(tensors, file)
    first, second = notes_of(file)
    assert "prune keeps 29,200 of 50,200 prunable weights (sparsity 0.4183266932)" in first
    [flags] = re.findall(r"(--pruner=magnitude --sparsity=\S+) keeps the mask", second)
    folder = tmp_path / "run"
    command = [*flags.split(), "--model=lenet_300_100", "--finetune-epochs=0", "--train-examples=100"]
    assert run("digits", [*command, "--batch-size=25", f"--pretrained={file}", f"--run-dir={folder}"]) == 0
    ticket = ticket_file.load(folder / "ticket.safetensors").ticket
    np.testing.assert_array_equal(ticket.mask["linear2"]["kernel"], mask.T)
    assert ticket.mask["linear1"]["kernel"].all()
    np.testing.assert_array_equal(ticket.params["linear2"]["kernel"], (tensors["fc2.weight_orig"] * mask).T)


def test_flags_for_what_does_not_fit(weights, tmp_path, capsys):
    _, tensors = weights
    file = tmp_path / "other.safetensors"
    save_file(
        {n: t for n, t in tensors.items() if "fc3" not in n} | {"head.weight": np.zeros((2, 2), np.float32)}, file
    )
    with pytest.raises(UsageError, match=r"; see --allow-missing=REGEX and --allow-unexpected=REGEX$"):
        notes_of(file)
    with pytest.raises(UsageError, match=r"1 unexpected \(head.weight\); see --allow-unexpected=REGEX$"):
        notes_of(file, "--allow-missing=linear3")
    flags = ["--allow-missing=^linear3", "--allow-unexpected=head"]
    assert notes_of(file, *flags) == (
        "--pretrained: left out: head.weight (unexpected)",
        "--pretrained: missing, with fresh values: linear3.bias, linear3.weight",
    )
    command = ["--pruner=magnitude", "--model=lenet_300_100", f"--pretrained={file}", *flags]
    assert run("digits", [*command, "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "missing, with fresh values: linear3.bias, linear3.weight" in shown
    assert "allow_unexpected" in shown
    assert run("digits", [*command[:-1], "--dry-run"]) == 2
    config, _ = parse("digits", command)
    model = network_for(config, (8, 8, 1), 10)
    tickets = [initial_ticket(model, dataclasses.replace(config, seed=seed))[0] for seed in (1, 2)]
    kernels = [np.asarray(ticket.params["linear3"]["kernel"]) for ticket in tickets]
    assert not np.array_equal(*kernels)  # drawn by the run's seed
    np.testing.assert_array_equal(tickets[0].params["linear2"]["kernel"], tensors["fc2.weight"].T)


@pytest.mark.parametrize("flag", ["--allow-missing", "--allow-unexpected"])
def test_flags_that_cannot_be_used(flag, weights, tmp_path):
    file, _ = weights
    with pytest.raises(UsageError, match=rf"^{flag}: expected a regular expression, got '\(' \(missing \)"):
        parse("digits", [f"--pretrained={file}", f"{flag}=("])
    for text in ("a{99999999999}", "(" * 3000 + ")" * 3000):  # these are no re.error
        with pytest.raises(UsageError, match=rf"^{flag}: expected a regular expression, got "):
            parse("digits", [f"--pretrained={file}", f"{flag}={text}"])
    assert parse("digits", [f"--pretrained={file}", f"{flag}=[[a]"])  # of which Python warns
    with pytest.raises(UsageError, match=rf"^{flag}: there are no weights to fit; expected --pretrained with it$"):
        parse("digits", [f"{flag}=a"])
    dense, _ = initial_ticket(lenet_300_100(10, input_size=64), parse("digits", ["--model=lenet_300_100"])[0])
    ticket_file.save(tmp_path / "ticket.safetensors", dense, metadata={}, model_state={})
    with pytest.raises(
        UsageError, match=rf"^{flag}: .*ticket.safetensors is a ticket, which is whole; expected PyTorch"
    ):
        notes_of(tmp_path, f"{flag}=a")


def test_two_networks_in_one_file(weights, tmp_path):
    _, tensors = weights
    file = tmp_path / "two.safetensors"
    save_file({f"{who}.{name}": t * np.float32(i) for i, who in enumerate("ab") for name, t in tensors.items()}, file)
    with pytest.raises(UsageError, match=r"under 'a\.' and 'b\.'; try --allow-unexpected=REGEX for what to leave out$"):
        notes_of(file)
    assert notes_of(file, r"--allow-unexpected=^a\.")[0].startswith("--pretrained: left out: a.fc1.bias, a.fc1.weight")


def test_runs_from_before_the_flags_have_their_names_and_configurations():
    fields = fields_of(parse("digits", [])[0])
    older = {name: value for name, value in fields.items() if not name.startswith("allow_")}
    assert digest(older) == digest(fields)
    assert from_fields(older) == from_fields(fields)
    with_flag = fields | {"allow_missing": "a"}
    assert digest(with_flag) != digest(fields)
    assert from_fields(with_flag).allow_missing == "a"


@pytest.mark.parametrize("name", ["network", "torchscript", "calls"])
def test_other_files_of_torch_are_one_line(name, tmp_path, capsys):
    file = written(tmp_path, name)
    flags = ["--pruner=magnitude", "--model=lenet_300_100", "--finetune-epochs=0", f"--pretrained={file}"]
    assert run("digits", [*flags, f"--run-dir={tmp_path}/run"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.endswith("expected torch.save(network.state_dict(), ...)\n")
    assert "weights_only" not in error
    assert error.isascii()
    assert "\x1b" not in error
    assert not (tmp_path / "run").exists()


def test_a_sweep_of_files_reads_all_before_it_trains(weights, tmp_path, capsys):
    file, _ = weights
    flags = ["--pruner=magnitude", "--model=lenet_300_100", "--finetune-epochs=0", f"--run-dir={tmp_path}/run"]
    assert run("digits", [*flags, f"--sweep.pretrained={file},{tmp_path}/none.pt"]) == 2
    assert "none.pt is not there" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
