"""--pretrained with PyTorch weights: a jackpot and GEM-MINER search in them, and what is refused."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from experiments.commands.program import run
from experiments.config.parse import parse
from experiments.problem.initial_ticket import initial_ticket
from experiments.problem.network import network_for
from experiments.terminal.errors import UsageError
from rare_gems.models.lenet import lenet_300_100
from rare_gems.storage import ticket_file

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
