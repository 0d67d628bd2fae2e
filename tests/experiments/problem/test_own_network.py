"""Networks of a user's own: PRNG keys are kept through a run, and what cannot be trained or saved is refused first."""

import contextlib
import signal

import jax
import numpy as np
import pytest

from experiments.commands.program import run
from experiments.config.parse import parse
from experiments.problem.initial_ticket import initial_ticket
from experiments.problem.network import network_for
from experiments.terminal import signals
from experiments.terminal.errors import UsageError
from experiments.training import runner
from rare_gems.storage import ticket_file

NETS = "--model=tests.experiments.nets"
FLAGS = ["--sparsity=0.5", "--epochs=2", "--finetune-epochs=1", "--gem-miner.period=1", "--batch-size=100"]
COMMAND = [f"{NETS}:keyed", "--init=model", *FLAGS, "--train-examples=200"]


def _state(folder):
    config, _ = parse("digits", COMMAND)
    model = network_for(config, (8, 8, 1), 10)
    ticket, state = initial_ticket(model, config)
    return ticket_file.load(folder / "ticket.safetensors", ticket._replace(scores=None), state), ticket, state


def _data(keys):
    return np.asarray(jax.random.key_data(keys))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("keyed")
    assert run("digits", [*COMMAND, f"--run-dir={folder}"]) == 0
    return folder


def test_keys_are_kept_through_a_run(finished):
    file, ticket, state = _state(finished)
    key = state["rng"]
    for _ in range(6):  # two epochs of search, one of finetuning, two steps each
        key = jax.random.split(key)[0]
    np.testing.assert_array_equal(_data(file.model_state["rng"]), _data(key))
    np.testing.assert_array_equal(_data(file.model_state["more"]), _data(state["more"]))
    np.testing.assert_array_equal(_data(file.ticket.params["noise"]), _data(ticket.params["noise"]))
    assert file.model_state["seen"] == 6
    assert file.metadata["prng_keys"]["state/more"] == "unsafe_rbg"


class _Stop(list):
    """What a signal would fill: it says so after some steps."""

    def __init__(self, steps):
        super().__init__([signal.SIGTERM])
        self.left = steps

    def __bool__(self):
        self.left -= 1
        return self.left < 0


def test_keys_are_kept_through_a_stop(finished, tmp_path, monkeypatch):
    command = [*COMMAND, f"--run-dir={tmp_path}/run"]
    with monkeypatch.context() as patch:
        patch.setattr(signals, "collected", lambda: contextlib.nullcontext(_Stop(4)))  # in the finetuning
        assert run("digits", command) == 75
    assert run("digits", command) == 0
    for name in ("ticket.safetensors", "search.safetensors"):
        assert (tmp_path / "run" / name).read_bytes() == (finished / name).read_bytes()


def test_keys_are_kept_through_a_check_of_the_ticket(finished, capsys):
    assert run("sanity", [str(finished), "--checks=shuffle"]) == 0
    state = _state(finished / "sanity" / "shuffle")[0].model_state
    assert state["seen"] == 6  # four of the search, two of the finetuning
    np.testing.assert_array_equal(_data(state["rng"]), _data(_state(finished)[0].model_state["rng"]))


def test_keys_of_a_pretrained_network(tmp_path):
    _, ticket, state = _start()
    trained = state | {"rng": jax.random.key(77), "more": state["more"][::-1]}
    ticket_file.save(tmp_path / "ticket.safetensors", ticket, metadata={}, model_state=trained)
    got, got_state = _start(f"--pretrained={tmp_path}")[1:]
    np.testing.assert_array_equal(_data(got_state["rng"]), _data(trained["rng"]))
    np.testing.assert_array_equal(_data(got_state["more"]), _data(trained["more"]))
    np.testing.assert_array_equal(_data(got.params["noise"]), _data(ticket.params["noise"]))


def _start(*flags):
    init = [] if flags else ["--init=model"]
    config, _ = parse("digits", [f"{NETS}:keyed", *init, *FLAGS, *flags])
    return config, *initial_ticket(network_for(config, (8, 8, 1), 10), config)


REFUSED = {
    "with_a_string": "state/bn/act: expected an array of numbers or bool, got str",
    "with_objects": "params/o/0: expected an array of numbers or bool, got object",
    "with_float8": "state/scale: expected an array of numbers or bool, got float8_e4m3fn",
    "with_one_name_twice": "params: two leaves have the name 'a/b'",
    "with_64_bits": "state/seen: expected int32 at most, got int64, which JAX would cut silently",
    "with_a_large_int": "state/bn/0: expected a number that int32 holds, got 2147483648",
    "with_a_large_float": "params/eps: expected a number that float32 holds, got 1e+300",
    "without_state": "expected init(key) to return (params, state), got dict of 2",
    "with_mixed_keys": "params/blocks/0: expected keys of one type, which can be sorted, got 1 and 'a'",
    "with_an_assertion": "for images of 8x8x1: AssertionError (nets.py, line ",
    "with_another_state": "a state like the one it was given, but of seen got float32[] for int32[]",
    "with_integers": "expected logits of floating point, got int32",
    "of_small_batches": "evaluating the test images in batches of 360: TypeError",
    "without_gradient": "training in batches of 100: ValueError: Reverse-mode differentiation does not work",
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
def test_what_cannot_be_trained_or_saved_is_refused_before_the_first_step(name, dry, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(runner, "train_together", None)  # nothing may be trained
    flags = [f"{NETS}:{name}", "--init=model", *FLAGS, f"--run-dir={tmp_path}/run", *dry]
    assert run("digits", flags) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith(f"experiments.digits: error: --model: tests.experiments.nets:{name}, ")
    assert REFUSED[name] in error
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("name", "leaf"), [("with_nan", "bias"), ("with_an_infinite_kernel", "w")])
def test_numbers_that_are_not_finite_are_refused_where_they_are_drawn(name, leaf):
    config, _ = parse("digits", [f"{NETS}:{name}", *COMMAND[1:]])
    with pytest.raises(
        UsageError, match=rf"^{NETS}:{name}".replace("=", ": ") + f": .*NaN or infinity in head/{leaf}$"
    ):
        initial_ticket(network_for(config, (8, 8, 1), 10), config)


def test_a_constant_may_be_infinite():
    config, _ = parse("digits", [f"{NETS}:with_an_infinite_constant", *COMMAND[1:]])
    initial_ticket(network_for(config, (8, 8, 1), 10), config)
