"""Networks that take a key: another at every step, the same again, on several devices and for several seeds at once."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.commands.program import run
from experiments.problem.evaluation import make_evaluation
from experiments.problem.network import forward_flop
from experiments.problem.problem import make_loss
from rare_gems import init, masks
from rare_gems.data.dataset import Split
from rare_gems.data.device_batches import Batch
from rare_gems.data.digits import digits
from rare_gems.models.model import Model
from rare_gems.phase import Ticket
from rare_gems.pruners.gem_miner import gem_miner
from rare_gems.pruners.parts.finetune import finetune
from rare_gems.storage import ticket_file
from rare_gems.training import sharding, trainer
from rare_gems.training.feeds import Feed

STEPS, BATCH = 3, 8


def dropping(image_shape, num_classes):
    """Its state notes the key of the step before."""

    def start(key):
        keys = jax.random.split(key)
        params = {"1": jax.random.normal(keys[0], (64, 16)) / 8, "2": jax.random.normal(keys[1], (16, num_classes)) / 4}
        return params, {"seen": jnp.zeros(2, jnp.uint32)}

    def apply(params, state, x, train, *, key):
        h = jax.nn.relu(x.reshape(len(x), -1) @ params["1"])
        if train:
            h = jnp.where(jax.random.bernoulli(key, 0.5, h.shape), 2 * h, 0)
            state = {"seen": jax.random.key_data(key)}
        return h @ params["2"], state

    return SimpleNamespace(init=start, apply=apply)


MODEL = dropping((8, 8, 1), 10)
TUNE = finetune(num_epochs=2, steps_per_epoch=STEPS, learning_rate=0.1)


def start(seed=0):
    params, state = MODEL.init(jax.random.key(seed))
    mask = masks.ones(params)
    return Ticket(params, init.uniform_scores(jax.random.key(seed + 1), mask), mask), state


IMAGES, LABELS = jax.random.normal(jax.random.key(5), (24, 8, 8, 1)), jnp.arange(24, dtype=jnp.int32) % 10
RECIPE = gem_miner(start()[0].mask, sparsity=0.5, num_epochs=2, steps_per_epoch=STEPS, period=1, finetune=TUNE)


def train(key, mesh=None, first=None, recipe=RECIPE, **options):
    feed = Feed(
        data=sharding.place((IMAGES, LABELS), mesh),
        num_batches=STEPS,
        order=lambda key: jax.random.permutation(key, jnp.arange(24, dtype=jnp.int32)).reshape(STEPS, BATCH),
        batch=lambda data, i, key: Batch(data[0][i], data[1][i], jnp.ones(BATCH)),
    )
    options |= {"loss_fn": make_loss(MODEL), "feed": feed, "key": key, "mesh": mesh}
    return trainer.epochs(recipe, *(first or start()), **options)


def end(moments):
    *_, last = moments
    return jax.tree.map(np.asarray, (last.ticket, last.model_state))


def same(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


def close(one, other):
    """The masks and keys are equal; sums may be in another order."""
    same((one[0].mask, one[1]), (other[0].mask, other[1]))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5), one[0].params, other[0].params)


@pytest.fixture(scope="module")
def alone():
    return end(train(jax.random.key(7)))


def test_each_step_of_each_run_has_its_own_key():
    step = jax.jit(trainer.make_step(make_loss(MODEL), TUNE))
    drawn = set()
    for seed in (7, 8):
        for index in range(2):
            carry = trainer.begin(TUNE, *start(), jax.random.fold_in(jax.random.key(seed), index))
            for _ in range(3):
                carry = step(carry, Batch(IMAGES[:BATCH], LABELS[:BATCH], jnp.ones(BATCH)))
                drawn.add(tuple(carry.model_state["seen"].tolist()))
    assert len(drawn) == 2 * 2 * 3


def test_the_same_again_and_after_a_stop(alone):
    same(end(train(jax.random.key(7))), alone)
    moments = list(train(jax.random.key(7), poll=lambda index, step: (index, step) == (1, 2)))
    assert moments[-1].interrupted
    same(end(train(jax.random.key(7), resume=(moments[-1].index, moments[-1].carry))), alone)


def test_seeds_at_once_are_each_what_they_are_alone():
    keys, firsts = jax.random.split(jax.random.key(3), 2), [start(0), start(4)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *firsts)
    together = end(train(keys, first=stacked, many=True, recipe=(TUNE,)))
    for i, first in enumerate(firsts):
        close(jax.tree.map(lambda x, i=i: x[i], together), end(train(keys[i], first=first, recipe=(TUNE,))))


def test_devices_that_share_a_batch_drop_the_same(alone):
    close(end(train(jax.random.key(7), mesh=sharding.make_mesh(jax.devices()[:4]))), alone)


def test_evaluation_and_counts_are_always_of_one_key():
    modes = []

    def apply(params, state, x, train, key):
        modes.append((train, isinstance(key, jax.Array)))
        return jax.random.normal(key, (len(x), 10)) + 0 * MODEL.apply(params, state, x, False, key=key)[0], state

    model, split = (
        Model(MODEL.init, apply),
        Split(np.zeros((20, 8, 8, 1), np.uint8), np.arange(20, dtype=np.int32) % 10),
    )
    data = digits()._replace(test=split)
    evaluate = make_evaluation(model, data).one
    ticket, state = start()
    values = [float(evaluate(ticket.params, state, data.test)) for _ in range(2)]
    assert values[0] == values[1]
    assert forward_flop(model, (8, 8, 1)) > 2 * 64 * 16
    assert set(modes) == {(False, True)}


METHODS = {
    "gem_miner": ["--epochs=2", "--gem-miner.period=1"],
    "synflow": ["--synflow.rounds=2"],
    "prospr": ["--prospr.inner-steps=1"],
    "smart_ratio": ["--smart-ratio.linear=None"],
}


@pytest.mark.parametrize("name", METHODS)
def test_every_kind_of_method(name, tmp_path):
    flags = [f"--pruner={name.split()[0]}", "--model=tests.experiments.problem.test_dropout:dropping", "--init=model"]
    flags += ["--sparsity=0.5", "--finetune-epochs=1", "--train-examples=40", "--batch-size=20", *METHODS[name]]
    assert run("digits", [*flags, f"--run-dir={tmp_path}/one"]) == 0
    file = ticket_file.load(tmp_path / "one" / "ticket.safetensors")
    masks.check(file.ticket.mask, (64 * 16 + 160) // 2)
    assert file.model_state["seen"].any()
    if name == "gem_miner":
        assert run("digits", [*flags, f"--run-dir={tmp_path}/two"]) == 0
        assert len({(tmp_path / run / "ticket.safetensors").read_bytes() for run in ("one", "two")}) == 1


def test_a_dry_run_traces_it(capsys):
    flags = ["--model=tests.experiments.problem.test_dropout:dropping", "--dry-run"]
    assert run("digits", flags) == 0
    assert "prunable: 1,184 weights in 2 layers, the first 1, the last 2" in capsys.readouterr().out
