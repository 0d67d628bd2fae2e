"""PRNG keys and integers among params and model state: trained around, exactly, in every way of training."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rare_gems import init, masks, transforms, views
from rare_gems.phase import Phase, Ticket
from rare_gems.pruners.gem_miner import gem_miner
from rare_gems.pruners.grasp import grasp
from rare_gems.pruners.parts.finetune import finetune
from rare_gems.pruners.prospr import prospr
from rare_gems.pruners.synflow import synflow
from rare_gems.training import same_program, sharding, trainer
from rare_gems.training.feeds import Feed, Stream
from tests import contract
from tests.toy import rotated

STEPS = 2  # an epoch
TUNE = finetune(num_epochs=1, steps_per_epoch=STEPS, learning_rate=0.1)
DATA = np.linspace(0.5, 1.5, 8, dtype=np.float32)


@pytest.fixture(scope="module", autouse=True)
def _programs():
    """Runs of one phase share its programs."""
    with contract.programs():
        yield


def _data(leaf):
    return jax.random.key_data(leaf) if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf


def assert_same(got, expected):
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(_data(a), _data(b))


def _start(impl="threefry2x32", seed=0):
    keys = jax.random.split(jax.random.key(seed, impl=impl), 3)
    params = {"layer": {"kernel": jnp.ones((4, 4)), "bias": jnp.zeros(4)}, "noise": {"key": keys[0], "n": jnp.int32(5)}}
    mask = masks.ones(params)
    params = init.kaiming_normal(jax.random.key(seed), params, mask)
    ticket = Ticket(params, init.uniform_scores(jax.random.key(seed + 1), mask), mask)
    return ticket, {"rng": keys[0], "batch": keys[1:], "seen": jnp.int32(0)}


def _apply(params, state, x, train):
    del train
    noise = jax.random.uniform(params["noise"]["key"], (4,), jnp.float32) + jnp.float32(params["noise"]["n"])
    return jnp.abs(jnp.outer(x, noise @ jnp.abs(params["layer"]["kernel"])) + params["layer"]["bias"][None]), state


def _loss(params, state, batch, key):
    del key
    kept = jax.random.bernoulli(state["rng"], 0.5, (4,)).astype(jnp.float32)
    logits, _ = _apply(params, state, batch, True)
    state = {"rng": jax.random.split(state["rng"])[0], "batch": state["batch"][::-1], "seen": state["seen"] + 1}
    return jnp.mean(jnp.square(logits) * kept[None]) / 100, (state, jnp.float32(0))


FEED = Feed(
    data=DATA,
    num_batches=STEPS,
    order=rotated(STEPS, 4),
    batch=lambda data, indices, key: data[indices],
)
MASK = jax.eval_shape(lambda: _start()[0].mask)
MINER = gem_miner(MASK, sparsity=0.5, num_epochs=2, steps_per_epoch=STEPS, period=1, finetune=TUNE)


def _run(recipe, start, key=None, loss_fn=_loss, **options):
    key = jax.random.key(9) if key is None else key
    return trainer.run(recipe, *start, loss_fn=loss_fn, feed=FEED, key=key, **options)


def _after(state, steps):
    """What a state is after those steps."""
    for _ in range(steps):
        state = {"rng": jax.random.split(state["rng"])[0], "batch": state["batch"][::-1], "seen": state["seen"] + 1}
    return state


@pytest.mark.parametrize(("impl", "loop"), [("threefry2x32", "python"), ("rbg", "scan"), ("unsafe_rbg", "python")])
def test_state_moves_and_params_stay(impl, loop):
    start = _start(impl)
    ticket, state = _run(MINER, start, loop=loop)
    assert_same(state, _after(start[1], 3 * STEPS))
    assert_same(ticket.params["noise"], start[0].params["noise"])
    masks.check(ticket.mask, 8)
    assert not np.array_equal(ticket.params["layer"]["bias"], start[0].params["layer"]["bias"])


RECIPES = {
    "grasp": grasp(MASK, sparsity=0.5, loss_fn=_loss, finetune=TUNE),
    "prospr": prospr(MASK, sparsity=0.5, loss_fn=_loss, finetune=TUNE, inner_steps=1, momentum=0.5),
    "synflow": synflow(MASK, sparsity=0.5, apply=lambda p, s, x, train: _apply(p, s, x[:, 0], train), image_shape=(1,),
                       rounds=2, finetune=TUNE),
}  # fmt: skip


@pytest.mark.parametrize("name", RECIPES)
def test_methods_that_take_gradients_of_their_own(name):
    start = _start()
    ticket, state = _run(RECIPES[name], start)
    masks.check(ticket.mask, 8)
    assert_same(ticket.params["noise"], start[0].params["noise"])
    assert_same(state, _after(start[1], STEPS))  # of the finetuning


def test_many_runs_are_what_each_is_alone():
    starts, keys = [_start(seed=0), _start(seed=5)], jax.random.split(jax.random.key(3), 2)
    many = _run(MINER, jax.tree.map(lambda *leaves: jnp.stack(leaves), *starts), keys, many=True)
    for i, start in enumerate(starts):
        ticket, state = _run(MINER, start, keys[i])
        assert_same(jax.tree.map(lambda leaf: leaf[i], many[1]), state)  # noqa: B023
        assert_same(jax.tree.map(lambda leaf: leaf[i], many[0].params["noise"]), ticket.params["noise"])  # noqa: B023
        assert_same(jax.tree.map(lambda leaf: leaf[i], many[0].mask), ticket.mask)  # noqa: B023


def test_on_several_devices():
    mesh = sharding.make_mesh(jax.devices()[:2])
    start = _start("unsafe_rbg")
    per_device = _run(MINER, start, loss_fn=sharding.per_device(_loss, mesh), mesh=mesh)
    for ticket, state in (_run(MINER, start, mesh=mesh), per_device):
        assert_same(state, _after(start[1], 3 * STEPS))
        assert_same(ticket.params["noise"], start[0].params["noise"])


def test_phases_are_compared():
    def digest(sparsity, impl="threefry2x32"):
        recipe = gem_miner(MASK, sparsity=sparsity, num_epochs=2, steps_per_epoch=STEPS, period=1, finetune=TUNE)
        return [same_program.program(phase, *_start(impl), DATA) for phase in recipe]

    assert digest(0.5) == digest(0.7)
    assert digest(0.5) != digest(0.5, "rbg")


STILL = Phase(view=views.masked, trains="params", optimizer=TUNE.optimizer, during=transforms.identity(),
              after=transforms.identity(), num_steps=1)  # fmt: skip


def test_64_bits_are_refused_before_the_first_step():
    ticket, state = _start()
    wide = np.ones((4, 4))
    params = ticket.params | {"layer": ticket.params["layer"] | {"kernel": wide}}
    stream = Stream(STEPS, lambda seed, first: iter([{"x": np.arange(4)}]), lambda made, key: made["x"])
    cut = "at most, got (int|float)64, which JAX would cut silently"
    for given, feed, name in (
        ((ticket._replace(params=params), state), FEED, "params/layer/kernel"),
        ((ticket._replace(scores={"layer": {"kernel": wide, "bias": None}, "noise": {"key": None, "n": None}}), state),
         FEED, "scores/layer/kernel"),
        ((ticket, state | {"seen": np.int64(2**40)}), FEED, "state/seen"),
        ((ticket, state), FEED._replace(data=np.arange(8)), "data of feed 0"),
        ((ticket, state), stream, "batch of the stream/x"),
    ):  # fmt: skip
        for many in (False, True) if feed is not stream else (False,):
            stacked = jax.tree.map(lambda leaf: leaf[None] if many else leaf, given)  # noqa: B023
            key = jax.random.split(jax.random.key(0), 1) if many else jax.random.key(0)
            with pytest.raises(ValueError, match=f"{name}: expected .* {cut}"):
                trainer.run((STILL,), *stacked, loss_fn=_loss, feed=feed, key=key, many=many)
    with pytest.raises(ValueError, match="state/name: expected an array, got str"):
        trainer.run((STILL,), ticket, state | {"name": "relu"}, loss_fn=_loss, feed=FEED, key=jax.random.key(0))


def test_training_with_64_bits_turned_on():
    """float64 stays float64 from the weights to the mask, and a count of 64 bits counts on."""
    with jax.enable_x64(True):
        ticket, state = _start()
        wide = {"kernel": jnp.float64(ticket.params["layer"]["kernel"]), "bias": jnp.zeros(4, jnp.float64)}
        params = {"layer": wide, "noise": ticket.params["noise"]}
        many = state | {"seen": np.int64(2**40)}

        def loss_fn(params, state, batch, key):
            narrow = params | {"layer": jax.tree.map(jnp.float32, params["layer"])}
            return _loss(narrow, state, batch, key)

        ticket, state = trainer.run(
            MINER, ticket._replace(params=params), many, loss_fn=loss_fn, feed=FEED, key=jax.random.key(9)
        )
        assert state["seen"] == 2**40 + 3 * STEPS
        assert ticket.params["layer"]["kernel"].dtype == jnp.float64
        masks.check(ticket.mask, 8)
