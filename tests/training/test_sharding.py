"""Many devices: the same tickets, batches and runs and weights that lie where they should, and what is communicated."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from rare_gems import init, masks, radix_descent, rounds, selection
from rare_gems.models.layers import BatchNorm, Conv, Linear
from rare_gems.models.model import from_module
from rare_gems.phase import Ticket
from rare_gems.pruners.gem_miner import gem_miner, search
from rare_gems.pruners.parts.finetune import finetune
from rare_gems.training import sharding, step, trainer
from rare_gems.training.carry import begin
from rare_gems.training.feeds import Feed
from tests.toy import make_toy, rotated

BATCH, NUM, STEPS, RUNS = 16, 48, 3, 4
TUNE = finetune(num_epochs=1, steps_per_epoch=STEPS, learning_rate=0.1)


class Net(nnx.Module):
    def __init__(self):
        self.a_conv, self.b_norm, self.c_linear = Conv(3, 16, 3, padding=1), BatchNorm(16), Linear(16, 8)

    def __call__(self, x, train):
        return self.c_linear(self.b_norm(self.a_conv(x), train, relu=True).mean((1, 2)))


MODEL = from_module(Net)


def _loss(params, state, batch, key):
    del key
    logits, state = MODEL.apply(params, state, batch[0], True)
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, batch[1]).mean()
    return loss, (state, (logits.argmax(-1) == batch[1]).astype(jnp.float32).mean())


def _start(seed=0):
    params, state = MODEL.init(jax.random.key(seed))
    mask = masks.ones(params)
    return Ticket(params, init.uniform_scores(jax.random.key(seed + 1), mask), mask), state


def _feed(mesh):
    labels = jnp.arange(NUM, dtype=jnp.int32) % 8
    images = jax.random.normal(jax.random.key(5), (NUM, 4, 4, 3)) + labels[:, None, None, None] / 4
    data = sharding.place((images, labels), mesh)
    return Feed(data, STEPS, rotated(STEPS, BATCH), lambda data, i, key: (data[0][i], data[1][i]))


def _run(mesh=None, loss_fn=_loss, seeds=None, tune=TUNE):
    ticket, state = _start()
    recipe = gem_miner(ticket.mask, sparsity=0.6, num_epochs=5, steps_per_epoch=STEPS, period=1, finetune=tune)
    key, many = jax.random.key(9), seeds is not None
    if many:
        ticket, state = jax.tree.map(lambda *leaves: jnp.stack(leaves), *map(_start, seeds))
        key = jax.random.split(key, RUNS)[: len(seeds)]
    return trainer.run(recipe, ticket, state, loss_fn=loss_fn, feed=_feed(mesh), key=key, mesh=mesh, many=many)


@pytest.fixture(scope="module")
def alone():
    return _run()


def _check_same(got, expected, exact):
    (ticket, state), (ticket0, state0) = jax.device_get((got, expected))
    for layer, (kept, size) in masks.layer_counts(ticket0.mask).items():
        assert masks.layer_counts(ticket.mask)[layer] == (kept, size)
    assert masks.num_kept(ticket.mask) == masks.count_for(masks.num_prunable(ticket.mask), 0.6)
    if exact:
        jax.tree.map(np.testing.assert_array_equal, (ticket, state), (ticket0, state0))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), state, state0)


def _run_toy(mesh=None):
    toy = make_toy()
    data = sharding.place(jnp.arange(1.0, 25.0), mesh)  # its sums are exact
    feed = Feed(data, 3, rotated(3, 8), lambda data, indices, key: data[indices])
    recipe = gem_miner(toy.ticket.mask, sparsity=0.8, num_epochs=7, steps_per_epoch=3, period=2, finetune=TUNE)
    options = {"loss_fn": toy.loss_fn, "feed": feed, "key": jax.random.key(1), "mesh": mesh}
    return trainer.run(recipe, toy.ticket, toy.model_state, **options)


@pytest.fixture(scope="module")
def toy_alone():
    return _run_toy()


@pytest.mark.parametrize("num", [2, 8])
def test_the_toy_s_ticket_is_the_same_to_the_bit_on_any_number_of_devices(toy_alone, num):
    got = _run_toy(sharding.make_mesh(jax.devices()[:num]))
    jax.tree.map(np.testing.assert_array_equal, got, toy_alone)
    assert all(len(leaf.devices()) == num for leaf in jax.tree.leaves(got))


@pytest.mark.parametrize("shape", [{}, {"model": 4}], ids=["data", "model"])
def test_a_network_with_batch_norm_keeps_as_many_weights_in_every_layer(alone, monkeypatch, shape):
    monkeypatch.setattr(sharding, "LARGE", 100)
    mesh = sharding.make_mesh(jax.devices(), **shape)
    got = _run(mesh)
    _check_same(got, alone, exact=False)
    spec = got[0].params["a_conv"]["kernel"].sharding.spec
    assert spec == (P(None, None, None, "model") if shape else P())
    assert got[0].mask["a_conv"]["kernel"].sharding.spec == spec


@pytest.fixture(scope="module")
def together():
    """Runs that share one device."""
    return jax.device_get(_run(seeds=range(RUNS)))


@pytest.mark.parametrize(("runs", "num"), [(2, 8), (RUNS, 2)], ids=["four share", "two each"])
def test_runs_on_devices_of_their_own_are_what_they_are_alone(together, runs, num):
    got = _run(sharding.make_mesh(jax.devices()[:num], runs=2), seeds=range(runs))
    assert got[0].params["a_conv"]["kernel"].sharding.spec[0] == "runs"
    (ticket, state), (expected, state0) = jax.device_get(got), jax.tree.map(lambda x: x[:runs], together)
    jax.tree.map(np.testing.assert_array_equal, ticket.mask, expected.mask)
    same = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)  # noqa: E731
    jax.tree.map(same, (ticket.params, state), (expected.params, state0))


def test_statistics_per_device_are_those_of_each_part_of_the_batch():
    mesh = sharding.make_mesh(jax.devices()[:4])
    ticket, state = _start()
    key, batch = jax.random.key(0), jax.tree.map(lambda x: x[:BATCH], _feed(None).data)
    split = lambda x: jnp.stack(jnp.split(x, 4))  # noqa: E731

    def of_parts(params):
        one = lambda batch: _loss(params, state, batch, key)  # noqa: E731
        return jax.tree.map(lambda x: x.mean(0), jax.vmap(one)(jax.tree.map(split, batch)))

    def on_devices(params):
        return sharding.per_device(_loss, mesh)(params, state, sharding.split_batch(batch, mesh), key)

    expected, got = (jax.jit(jax.value_and_grad(fn, has_aux=True))(ticket.params) for fn in (of_parts, on_devices))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), got, expected)
    whole, _ = jax.jit(_loss)(ticket.params, state, batch, key)
    assert abs(float(whole) - float(got[0][0])) > 1e-3  # another loss than that of the whole batch


def test_devices_with_statistics_of_their_own_draw_their_own_randomness():
    mesh, key = sharding.make_mesh(jax.devices()[:4], model=2), jax.random.key(3)
    draws = lambda params, state, batch, key: (jax.random.uniform(key), (state, batch.mean()))  # noqa: E731
    one = jax.jit(lambda batch: sharding.per_device(draws, mesh)({}, {}, sharding.split_batch(batch, mesh), key)[0])
    expected = [jax.random.uniform(jax.random.fold_in(key, i)) for i in range(4)]
    assert len(set(map(float, expected))) == 4
    np.testing.assert_allclose(one(jnp.ones(8)), np.mean(expected), rtol=1e-6)


def test_a_run_with_statistics_per_device_ends_on_its_count(alone):
    mesh = sharding.make_mesh(jax.devices()[:4])
    ticket, state = _run(mesh, sharding.per_device(_loss, mesh), tune=None)
    assert masks.num_kept(ticket.mask) == masks.num_kept(alone[0].mask)
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(state))


COLLECTIVE = re.compile(r"= (.*?) (all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter)(?:-start)?\(")


def _collectives(fn, *args):
    """(name, dtype, elements) of every value that devices exchange in the compiled program."""
    text = jax.jit(fn).lower(*args).compile().as_text()
    return [
        (name, kind, int(np.prod([int(n) for n in dims.split(",") if n])))
        for shapes, name in COLLECTIVE.findall(text)
        for kind, dims in re.findall(r"(\w+)\[([\d,]*)\]", shapes)
    ]


def _edit_of(mesh, shapes):
    """A freezing round of GEM-MINER, and its abstract arguments, of weights of these shapes."""
    params = {f"layer_{i}": {"kernel": jax.ShapeDtypeStruct(s, jnp.float32)} for i, s in enumerate(shapes)}
    mask = jax.eval_shape(masks.ones, params)
    phase = search(mask, sparsity=0.9, num_epochs=3, steps_per_epoch=2, period=1)
    carry = jax.eval_shape(lambda t, key: begin(phase, t, {}, key), Ticket(params, params, mask), jax.random.key(0))

    def lies(x):
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(mesh, sharding.spec_of(x.shape, mesh)))

    carry = jax.tree.map(lies, carry)
    take = lambda carry, given: step.take_round(phase, carry, given, mesh=mesh)  # noqa: E731
    return take, carry, rounds.given(phase.rounds, 0)


@pytest.mark.parametrize("on_cpu", [False, True], ids=["as on accelerators", "as on CPU"])
def test_selection_among_sharded_scores_exchanges_counts_and_no_scores(monkeypatch, on_cpu):
    top = selection._top.__wrapped__
    if not on_cpu:  # the sums that are compiled for accelerators; XLA partitions them the same everywhere
        monkeypatch.setattr(radix_descent, "sum_each_on_cpu", radix_descent.sum_each)
        monkeypatch.setattr(selection, "_top", jax.jit(lambda *args: top(*args)))  # traced anew
    mesh = sharding.make_mesh(jax.devices(), model=8)
    found = _collectives(*_edit_of(mesh, [(3, 3, 64, 256), (256, 512)]))  # scores: 147,456 and 131,072
    assert found
    most = 8 * 256 if on_cpu else 16
    for name, kind, size in found:
        assert kind == "s32", (name, kind, size)
        assert size <= most, (name, kind, size)
        assert on_cpu or name == "all-reduce", (name, kind, size)


def test_a_gather_of_scores_would_be_found():
    mesh = sharding.make_mesh(jax.devices(), model=8)
    scores = jax.ShapeDtypeStruct((256, 512), jnp.float32, sharding=NamedSharding(mesh, P(None, "model")))
    assert ("all-gather", "f32", 256 * 512) in _collectives(lambda s: sharding.whole(s * 2, mesh), scores)


def test_runs_on_devices_of_their_own_exchange_nothing():
    mesh = sharding.make_mesh(jax.devices(), runs=8)
    fn = sharding.over_runs(lambda w, x: jax.grad(lambda w: jnp.tanh(x @ w).mean())(w), mesh, (0, None), 0)
    w = jax.ShapeDtypeStruct((16, 8, 8), jnp.float32, sharding=NamedSharding(mesh, P("runs")))
    x = jax.ShapeDtypeStruct((4, 8), jnp.float32, sharding=NamedSharding(mesh, P()))
    assert _collectives(fn, w, x) == []


def test_where_a_leaf_lies():
    mesh = sharding.make_mesh(jax.devices(), model=4)
    assert sharding.spec_of((3, 3, 128, 64), mesh) == P(None, None, None, "model")
    assert sharding.spec_of((1024, 102), mesh) == P("model")  # 102 cannot be divided by 4
    assert sharding.spec_of((1023, 101), mesh) == P()
    assert sharding.spec_of((16, 16), mesh) == P()
    assert sharding.spec_of((2**20, 4), sharding.make_mesh(jax.devices())) == P()
    assert dict(mesh.shape) == {"runs": 1, "data": 2, "model": 4}


def test_devices_that_cannot_be_divided():
    with pytest.raises(ValueError, match="expected a multiple of 3 runs x 1 model parts, got 8"):
        sharding.make_mesh(jax.devices(), runs=3)
    mesh = sharding.make_mesh(jax.devices())
    with pytest.raises(ValueError, match="batch: expected a multiple of the 8 devices that share it, got 12"):
        jax.eval_shape(lambda x: sharding.split_batch(x, mesh), jnp.zeros((12, 2)))
