"""sparse.prune: removed weights are exactly zero after every step, whatever optimizer is inside, wherever it runs."""

import functools

import equinox
import haiku
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from flax import nnx
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from rare_gems import masks, sparse, transforms, views
from rare_gems.phase import Phase, Rounds
from rare_gems.pruners.gmp import gmp
from rare_gems.pruners.rigl import rigl
from rare_gems.training.carry import begin
from rare_gems.training.step import make_step
from tests.toy import make_toy

PARAMS = {
    "first": {"kernel": jnp.sin(jnp.arange(32.0)).reshape(8, 4), "bias": jnp.ones(4)},
    "last": {"kernel": jnp.cos(jnp.arange(8.0)).reshape(4, 2), "bias": jnp.ones(2)},
}
MOVING = sparse.rigl(0.5, num_steps=10, every=2)
ONCE = sparse.gradual(0.5, start=2, stop=2)
ODD = {name: {"kernel": np.arange(leaf["kernel"].size).reshape(leaf["kernel"].shape) % 2 == 1, "bias": None}
       for name, leaf in PARAMS.items()}  # fmt: skip


def roll(ticket, state, context):
    return ticket._replace(mask=jax.tree.map(lambda m: jnp.roll(m, 1, axis=1), ticket.mask)), state


def then(during):
    """Half of the weights, and then what a transform makes of them."""
    (phase,) = gmp(
        [jax.ShapeDtypeStruct((40,), bool)], sparsity=0.5, num_epochs=2, steps_per_epoch=1, every=1, stop=1.0
    )
    return sparse.Method(lambda whole: (*sparse.fixed(ODD).recipe(whole), phase._replace(during=during)))


ROLLING = then(transforms.Transform(lambda ticket: (), roll))  # all weights change sides in every step


def gradient(params):
    """Of a separable loss, dense: no weight stays where it is."""
    return jax.tree.map(lambda w: jnp.cos(3 * w) + 0.1, params)


def train(tx, params=PARAMS, num_steps=5, gradient=gradient):
    """Steps of a loop that knows nothing of masks; yields (params, state) after each."""
    state = tx.init(params)

    @jax.jit
    def step(params, state):
        updates, state = tx.update(gradient(params), state, params)
        return optax.apply_updates(params, updates), state

    for _ in range(num_steps):
        params, state = step(params, state)
        yield params, state


def num_alive_where_removed(params, state):
    mask = sparse.masks(state, params)
    removed = jax.tree.map(lambda m, w: jnp.where(m, 0, w), mask, masks.map_kept(lambda w: w, params, mask))
    return sum(int(np.count_nonzero(leaf)) for leaf in jax.tree.leaves(removed))


OPTIMIZERS = {
    "sgd": optax.sgd(0.1),
    "momentum and decay": optax.chain(optax.add_decayed_weights(0.1), optax.sgd(0.1, momentum=0.9, nesterov=True)),
    "adamw": optax.adamw(0.1, weight_decay=0.1),
    "clipped": optax.chain(optax.clip_by_global_norm(1.0), optax.adam(0.1)),
    "accumulating": optax.MultiSteps(optax.adam(0.1), 2),
    "masked": optax.masked(optax.adam(0.1), {"first": True, "last": False}),
    "adafactor": optax.adafactor(0.1, min_dim_size_to_factor=2),
    "lion": optax.lion(0.1),
    "muon": optax.contrib.muon(0.1),
    "schedule-free": optax.contrib.schedule_free_adamw(0.1),
    "two groups": optax.multi_transform({"a": optax.adam(0.1), "b": optax.sgd(0.1)}, {"first": "a", "last": "b"}),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_removed_weights_are_zero_after_every_step(name):
    for params, state in train(sparse.prune(OPTIMIZERS[name], ROLLING)):
        assert num_alive_where_removed(params, state) == 0
        assert masks.num_kept(sparse.masks(state)) == 20
    if name != "masked":
        assert not np.allclose(params["last"]["bias"], 1)  # what is not prunable trains
    assert float(sparse.sparsity(state)) == 0.5


def test_the_gradient_reaches_the_optimizer_masked_and_the_method_dense():
    seen = []
    spy = optax.stateless(lambda updates, params: seen.append(updates) or updates)
    look = transforms.Transform(lambda ticket: ticket.params, lambda ticket, state, context: (ticket, context.grads))
    tx, grads = sparse.prune(spy, then(look)), gradient(PARAMS)
    state = tx.init(PARAMS)
    seen.clear()  # init tries a step on shapes
    _, state = tx.update(grads, state, PARAMS)
    (inner,), dense = seen, jax.tree.leaves(state.edits)
    np.testing.assert_array_equal(
        inner["first"]["kernel"], np.where(ODD["first"]["kernel"], grads["first"]["kernel"], 0)
    )
    jax.tree.map(np.testing.assert_array_equal, dense, jax.tree.leaves(grads))


@pytest.mark.parametrize("method", [MOVING, ONCE, sparse.snip(0.5)], ids=["rigl", "gradual", "snip"])
def test_outside_of_jit_only_the_first_update_compiles_and_is_what_it_is_inside(method, caplog):
    tx, grads = sparse.prune(optax.adam(0.1), method), gradient(PARAMS)
    state = inside = tx.init(PARAMS)
    for step in range(3):
        caplog.clear()
        with jax.log_compiles():
            updates, state = tx.update(grads, state, PARAMS)
        assert ("Compiling" in caplog.text) is (step == 0)
        expected, inside = jax.jit(tx.update)(grads, inside, PARAMS)
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5), updates, expected)
        jax.tree.map(np.testing.assert_array_equal, sparse.masks(state), sparse.masks(inside))


@pytest.mark.parametrize("name", ["gmp", "rigl"])
def test_equals_the_trainer(name):
    toy, optimizer = make_toy(), optax.adamw(0.05)
    if name == "gmp":
        start, (search,) = toy.ticket, gmp(toy.ticket.mask, sparsity=0.75, num_epochs=8, steps_per_epoch=1, every=2)
        method = sparse.Method(lambda mask: (search,))
    else:
        _, search = rigl(toy.ticket.mask, sparsity=0.75, num_epochs=8, steps_per_epoch=1, every=2)
        mask = masks.keep_top(toy.ticket.scores, 44)
        start = toy.ticket._replace(mask=mask)
        method = sparse.Method(lambda whole: (*sparse.fixed(mask).recipe(whole), search))
    phase = search._replace(optimizer=optimizer)
    carry = begin(phase, start, toy.model_state, jax.random.key(0))
    step = jax.jit(make_step(toy.loss_fn, phase))
    batch = jnp.array([0.5, 1.0, 0.75, 1.5])
    tx = sparse.prune(optimizer, method)
    loop = train(
        tx, masks.apply(start.params, start.mask), 6,
        gradient=jax.grad(lambda params: toy.loss_fn(params, toy.model_state, batch, None)[0]),
    )  # fmt: skip
    for params, state in loop:
        carry = step(carry, batch)
        jax.tree.map(np.testing.assert_array_equal, sparse.masks(state), carry.ticket.mask)
        close = functools.partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-7)
        jax.tree.map(close, params, carry.ticket.params)
        jax.tree.map(close, state.inner, carry.opt_state)


def test_a_mask_or_a_transform_stands_for_a_method():
    mask = sparse.masks(sparse.prune(optax.sgd(0.1), sparse.random(0.5)).init(PARAMS))
    *_, (params, state) = train(sparse.prune(optax.sgd(0.1), mask), num_steps=2)
    jax.tree.map(np.testing.assert_array_equal, sparse.masks(state), mask)
    assert num_alive_where_removed(params, state) == 0
    *_, (params, state) = train(
        sparse.prune(optax.sgd(0.1), transforms.keep_top(10, score=transforms.magnitude)), num_steps=2
    )
    assert masks.num_kept(sparse.masks(state)) == 10
    assert num_alive_where_removed(params, state) == 0


def test_a_removed_weight_forgets_its_momentum():
    params, momentum = {"kernel": jnp.array([[3.0, -1.0]])}, optax.sgd(0.1, momentum=0.9)
    tx = sparse.prune(momentum, sparse.gradual(0.5, start=2, stop=2))
    *_, (params, state) = train(tx, params, 2)
    assert np.count_nonzero(state.inner[0].trace["kernel"]) == 1
    assert np.count_nonzero(params["kernel"]) == 1


def test_other_transformations_around_it():
    outer = optax.multi_transform(
        {"pruned": sparse.prune(optax.adam(0.1), MOVING), "dense": optax.sgd(0.1)}, {"first": "pruned", "last": "dense"}
    )
    *_, (params, state) = train(outer, num_steps=3)
    mask = sparse.masks(state)["first"]["kernel"]
    assert int(mask.sum()) == 16
    assert np.count_nonzero(np.where(mask, 0, params["first"]["kernel"])) == 0
    with jax.numpy_dtype_promotion("standard"):  # of MultiSteps itself
        *_, (params, state) = train(optax.MultiSteps(sparse.prune(optax.adam(0.1), ROLLING), 2), num_steps=4)
    assert num_alive_where_removed(params, state) == 0
    assert int(state.inner_opt_state.step) == 2


def test_under_vmap_and_scan_each_run_draws_its_own_mask():
    method = sparse.random(0.5)

    def run(key):
        tx = sparse.prune(optax.adam(0.1), method, key=key)

        def step(carry, _):
            params, state = carry
            updates, state = tx.update(gradient(params), state, params)
            return (optax.apply_updates(params, updates), state), sparse.sparsity(state)

        return jax.lax.scan(step, (PARAMS, tx.init(PARAMS)), None, length=3)

    keys = jax.random.split(jax.random.key(1), 2)
    (_params, state), sparsities = jax.jit(jax.vmap(run))(keys)
    np.testing.assert_array_equal(sparsities, np.full((2, 3), 0.5, np.float32))
    *_, (alone, state_alone) = train(sparse.prune(optax.adam(0.1), method, key=keys[1]), num_steps=3)
    jax.tree.map(
        np.testing.assert_array_equal, sparse.masks(state_alone), jax.tree.map(lambda m: m[1], sparse.masks(state))
    )
    assert num_alive_where_removed(alone, state_alone) == 0
    first = sparse.masks(state)["first"]["kernel"]
    assert np.any(first[0] != first[1])


@pytest.fixture(scope="module")
def alone():
    *_, (params, state) = train(sparse.prune(optax.adam(0.1), ONCE), num_steps=3)
    return params, state


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
@pytest.mark.parametrize("named", [False, True])
def test_on_a_mesh_masks_lie_where_their_weights_do(axis_type, named, alone):
    mesh = jax.make_mesh((2,), ("x",), axis_types=(axis_type,))
    put = functools.partial(jax.tree.map, lambda w: jax.device_put(w, NamedSharding(mesh, P("x"))))
    tx = sparse.prune(optax.adam(0.1), ONCE)
    with jax.set_mesh(mesh) if named else jax.numpy_rank_promotion("raise"):
        *_, (params, state) = train(tx, put(PARAMS), 3)
    jax.tree.map(np.testing.assert_array_equal, sparse.masks(state), sparse.masks(alone[1]))
    kernel = params["first"]["kernel"]
    assert sparse.masks(state)["first"]["kernel"].sharding.is_equivalent_to(kernel.sharding, 2)
    np.testing.assert_allclose(kernel, alone[0]["first"]["kernel"], rtol=1e-6)


def test_in_shard_map_with_averaged_gradients():
    mesh = jax.make_mesh((2,), ("x",), axis_types=(AxisType.Auto,))
    tx = sparse.prune(optax.adam(0.1), ONCE)

    @jax.jit
    @jax.shard_map(mesh=mesh, in_specs=(P(), P(), P("x")), out_specs=(P(), P()), check_vma=False)
    def step(params, state, batch):
        grads = jax.lax.pmean(jax.tree.map(lambda w: jnp.mean(batch) * jnp.cos(3 * w), params), "x")
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    params, state = PARAMS, tx.init(PARAMS)
    for _ in range(3):
        params, state = step(params, state, jnp.arange(4.0))
    assert num_alive_where_removed(params, state) == 0
    assert masks.num_kept(sparse.masks(state)) == 20


def test_the_state_goes_through_orbax(tmp_path):
    *_, (_params, state) = train(sparse.prune(optax.adam(0.1), MOVING), num_steps=2)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "state", state)
        checkpointer.wait_until_finished()
        restored = checkpointer.restore(tmp_path / "state", jax.eval_shape(lambda: state))
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    jax.tree.map(np.testing.assert_array_equal, restored, state)


def test_nnx_optimizer_as_it_is():
    model = nnx.Linear(8, 4, rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, sparse.prune(optax.adam(0.1), MOVING), wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer):
        optimizer.update(model, nnx.grad(lambda model: jnp.sum(model(jnp.ones((1, 8)))))(model))

    for _ in range(3):
        step(model, optimizer)
    params = nnx.state(model, nnx.Param)
    assert num_alive_where_removed(params, optimizer.opt_state) == 0
    assert np.count_nonzero(model.kernel[...]) == 16
    assert "kernel" in sparse.report(params, optimizer.opt_state)


class Two(nnx.Module):
    def __init__(self):
        self.a, self.b = (nnx.Linear(4, 4, rngs=nnx.Rngs(i)) for i in range(2))

    def __call__(self, x):
        return self.b(self.a(x))


@pytest.mark.parametrize("form", ["boxed", "state", "dict"])
def test_nnx_optimizer_with_a_known_mask(form):
    model = Two()
    params = nnx.state(model, nnx.Param)
    mask = masks.map_kept(lambda w: w > 0, params, masks.ones(params))
    plain = {name: {"kernel": params[name]["kernel"].get_value() > 0, "bias": None} for name in "ab"}
    forms = {"boxed": mask, "state": nnx.State(plain), "dict": plain}
    optimizer = nnx.Optimizer(model, sparse.prune(optax.adam(0.1), forms[form]), wrt=nnx.Param)
    for _ in range(2):
        optimizer.update(model, nnx.grad(lambda model: jnp.sum(model(jnp.ones((1, 4)))))(model))
    for name in "ab":
        kept = np.asarray(forms["dict"][name]["kernel"])
        np.testing.assert_array_equal(np.asarray(getattr(model, name).kernel[...]) != 0, kept)


@pytest.mark.parametrize("method", [sparse.snip(0.5), sparse.rigl(0.5, num_steps=9, every=2)])
def test_nnx_optimizer_calls_predicates_with_one_path(method):
    model, seen = Two(), set()

    def stacked(path, leaf):
        seen.add(masks.path_name(path))
        return masks.path_name(path) == "a/kernel"

    optimizer = nnx.Optimizer(model, sparse.prune(optax.adam(0.1), method, stacked=stacked), wrt=nnx.Param)
    for _ in range(3):
        optimizer.update(model, nnx.grad(lambda model: jnp.sum(jnp.sin(model(jnp.ones((1, 4))))))(model))
    assert seen == {"a/kernel", "b/kernel"}
    assert np.count_nonzero(model.a.kernel[...]) + np.count_nonzero(model.b.kernel[...]) == 16


def test_counts_of_layers_in_containers_of_ones_own():
    model, counts = Two(), {"a": {"kernel": 3, "bias": None}, "b": {"kernel": 5, "bias": None}}
    tx = sparse.prune(optax.sgd(0.1), sparse.magnitude(0.75, scope=lambda mask, total: counts))
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    optimizer.update(model, nnx.state(model, nnx.Param))
    assert [np.count_nonzero(layer.kernel[...]) for layer in (model.a, model.b)] == [3, 5]


def test_haiku_and_equinox():
    method = sparse.magnitude(0.5, scope="erk")
    net = haiku.without_apply_rng(haiku.transform(lambda x: haiku.nets.MLP([4, 2])(x)))
    params = net.init(jax.random.key(0), jnp.ones((1, 8)))
    *_, (params, state) = train(sparse.prune(optax.adam(0.1), method), params, 2)
    assert num_alive_where_removed(params, state) == 0
    assert masks.num_kept(sparse.masks(state)) == 20
    module = equinox.filter(equinox.nn.MLP(8, 2, 4, 1, key=jax.random.key(0)), equinox.is_inexact_array)
    *_, (module, state) = train(sparse.prune(optax.adam(0.1), method), module, 2)
    assert num_alive_where_removed(module, state) == 0
    assert masks.num_kept(sparse.masks(state)) == 20


def test_stacked_layers_are_pruned_layer_by_layer():
    params = {
        "layers": {"kernel": jnp.sin(jnp.arange(48.0)).reshape(3, 4, 4)},
        "head": {"kernel": jnp.ones((4, 4)) / 9},
    }
    tx = sparse.prune(
        optax.adam(0.1), sparse.rigl(0.75, num_steps=9, every=2, ratios="uniform"),
        stacked=lambda path, leaf: "layers" in masks.path_name(path),
    )  # fmt: skip
    for trained, state in train(tx, params, 3):
        assert np.asarray(sparse.masks(state)["layers"]["kernel"]).sum((1, 2)).tolist() == [4, 4, 4]
        assert num_alive_where_removed(trained, state) == 0


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_any_axis_may_count_the_layers(axis):
    kernel = np.moveaxis(np.sin(np.arange(48.0, dtype=np.float32)).reshape(3, 4, 4), 0, axis)
    params = {"layers": {"kernel": jnp.asarray(kernel), "bias": jnp.ones((3, 4))}}
    tx = sparse.prune(optax.sgd(0.1), sparse.magnitude(0.5, scope="uniform"), stacked=lambda path, leaf: axis)
    mask = np.moveaxis(np.asarray(sparse.masks(tx.init(params))["layers"]["kernel"]), axis, 0)
    assert mask.sum((1, 2)).tolist() == [8, 8, 8]
    with pytest.raises(ValueError, match="stacked: expected an axis of layers/kernel, which has 3, got 5"):
        sparse.prune(optax.sgd(0.1), sparse.magnitude(0.5), stacked=lambda path, leaf: 5).init(params)


def test_stacks_with_biases_freeze():
    params = {"layers": {"kernel": jnp.sin(jnp.arange(48.0)).reshape(3, 4, 4), "bias": jnp.ones((3, 4))}}
    method = sparse.freezing(0.5, num_rounds=2, every=1)
    tx = sparse.prune(optax.adam(0.1), method, stacked=lambda path, leaf: "layers" in masks.path_name(path))
    *_, (trained, state) = train(tx, params, 3)
    assert masks.num_kept(sparse.masks(state)) == 24
    assert num_alive_where_removed(trained, state) == 0


@pytest.mark.parametrize("method", [sparse.magnitude(0.5), sparse.rigl(0.5, num_steps=20, every=2)])
def test_updates_that_are_narrower_than_the_params(method):
    params = {"kernel": jax.random.normal(jax.random.key(0), (20, 20))}
    tx = sparse.prune(optax.sgd(0.1), method)
    state = tx.init(params)
    for _ in range(4):
        updates, state = tx.update(jax.tree.map(lambda w: jnp.cos(3 * w).astype(jnp.bfloat16), params), state, params)
        with jax.numpy_dtype_promotion("standard"):
            params = optax.apply_updates(params, updates)
        assert params["kernel"].dtype == jnp.float32
        assert num_alive_where_removed(params, state) == 0


def test_what_copies_the_params_at_first_copies_zeros():
    params = {"kernel": jax.random.normal(jax.random.key(0), (8, 8))}
    tx = sparse.prune(optax.contrib.schedule_free_sgd(0.1), sparse.magnitude(0.5))
    *_, (params, state) = train(tx, params, 3)
    evaluated = optax.contrib.schedule_free_eval_params(state.inner, params)
    assert num_alive_where_removed(evaluated, state) == 0


def test_a_known_mask_of_stacked_layers():
    params = {"layers": {"kernel": jnp.ones((2, 2, 3))}}
    mask = {"layers": {"kernel": jnp.arange(12).reshape(2, 2, 3) % 3 == 0}}
    state = sparse.prune(optax.sgd(0.1), mask, stacked=lambda path, leaf: True).init(params)
    np.testing.assert_array_equal(sparse.masks(state)["layers"]["kernel"], mask["layers"]["kernel"])


def test_what_is_nan_when_it_is_removed_is_told():
    params = {"kernel": jnp.array([[jnp.nan, 2.0], [3.0, 4.0]])}
    tx = sparse.prune(optax.sgd(0.1), {"kernel": jnp.array([[False, False], [True, True]])})
    *_, (after, state) = train(tx, params, 1)
    assert np.isnan(after["kernel"][0, 0])
    assert after["kernel"][0, 1] == 0
    assert sparse.report(after, state).endswith("1 removed weights are NaN or infinite, which no update undoes")


def test_what_is_pruned_is_what_masks_prune():
    """Beside one leaf the rule looks at its neighbours and at the classes that hold it."""

    class Block(equinox.Module):
        pre: equinox.nn.LayerNorm
        fc: equinox.nn.Linear

    def block(key):
        return Block(equinox.nn.LayerNorm(8), equinox.nn.Linear(8, 8, key=key))

    stack = equinox.filter_vmap(block)(jax.random.split(jax.random.key(0), 3))
    norm = {name: jnp.ones((8, 8)) for name in ("weight", "bias", "kernel")}
    for params in (equinox.filter(stack, equinox.is_inexact_array), norm):
        whole = masks.ones(params)
        state = sparse.prune(optax.sgd(0.1), sparse.random(0.5)).init(params)
        assert masks.layer_counts(sparse.masks(state)).keys() == masks.layer_counts(whole).keys()
        sparse.prune(optax.sgd(0.1), whole).init(params)  # a ticket's own mask is taken


def test_bfloat16_params_keep_their_dtype():
    params = {"kernel": jnp.sin(jnp.arange(8.0)).astype(jnp.bfloat16).reshape(4, 2)}
    tx = sparse.prune(optax.sgd(0.1), MOVING)
    updates, state = tx.update(params, tx.init(params), params)
    params = optax.apply_updates(params, updates)
    assert params["kernel"].dtype == jnp.bfloat16
    assert num_alive_where_removed(params, state) == 0


@pytest.mark.parametrize(
    ("tx", "message"),
    [
        (lambda: sparse.prune(optax.sgd(0.1), [jnp.ones((8, 4), bool)]), "mask: expected the structure"),
        (lambda: sparse.prune(optax.sgd(0.1), jax.tree.map(lambda m: m[:2], MASK)), "expected shape"),
        (lambda: sparse.prune(optax.sgd(0.1), jax.tree.map(lambda m: m.astype(int), MASK)), "expected dtype bool"),
        (lambda: sparse.prune(sparse.prune(optax.sgd(0.1), MOVING), MOVING), "not pruned, got one that"),
        (lambda: sparse.prune(optax.sgd(0.1), sparse.Method(lambda mask: gem_miner_of(mask))), "trains scores"),
        (lambda: sparse.prune(optax.sgd(0.1), sparse.magnitude(0.999)), "keeps none of 40"),
        (lambda: sparse.prune(optax.sgd(0.1), sparse.rigl(0.5, num_steps=10, every=20)), "every: expected"),
        (
            lambda: sparse.prune(optax.sgd(0.1), {"first": MASK["first"]}),
            "of the prunable params, got one without last/k",
        ),
        (lambda: sparse.prune(optax.sgd(0.1), sparse.magnitude), "^method: .* a mask, .* got the function magnitude$"),
        (lambda: sparse.prune(optax.sgd(0.1), 0.9), "^method: expected .*, got 0.9$"),
        (
            lambda: sparse.prune(optax.sgd(0.1), edited(by_gradient)),
            "^method: .* gradients, .* before the first update",
        ),
        (lambda: sparse.prune(optax.adam, MOVING), r"optax.adam\(1e-3\), got the function adam$"),
        (lambda: sparse.prune(MOVING, optax.sgd(0.1)), r"first, got a method; prune\(optimizer, method\)$"),
        (lambda: sparse.prune(optax.sgd(0.1), jax.tree.map(jnp.zeros_like, MASK)), "keep a weight, got none in the wh"),
        (lambda: sparse.prune(None, MOVING), "optimizer: expected an optax transformation, .*, got None$"),
        (lambda: sparse.prune(optax.lookahead(optax.sgd(0.1), 5, 0.5), MOVING), "^optimizer: expected .* 'fast'$"),
        (
            lambda: sparse.prune(optax.masked(optax.sgd(0.1), {"x": True}), MOVING),
            "^optimizer: .* (structure error|key mismatch)",
        ),
        (lambda: sparse.prune(optax.sgd(0.1), MOVING, prunable=lambda path, leaf: False), "at least one prunable"),
    ],
)
def test_what_cannot_be_is_refused_before_the_first_step(tx, message):
    with pytest.raises(ValueError, match=message):
        tx().init(PARAMS)


MASK = masks.ones(PARAMS)


def by_gradient(ticket, state, context):
    grads = masks.map_kept(lambda g: g, context.grads, ticket.mask)
    return ticket._replace(mask=jax.tree.map(lambda g: g > 0, grads)), state


def edited(update):
    """A method that applies a transform before the first update."""
    return sparse.Method(lambda mask: (transforms.edit(transforms.Transform(lambda ticket: (), update)),))


def gem_miner_of(mask):
    from rare_gems.pruners.gem_miner import gem_miner

    return gem_miner(mask, sparsity=0.5, num_epochs=3, steps_per_epoch=1, period=1)


def test_update_without_params_and_states_without_masks_are_refused():
    tx = sparse.prune(optax.sgd(0.1), MOVING)
    with pytest.raises(ValueError, match="expected the params"):
        tx.update(PARAMS, tx.init(PARAMS))
    with pytest.raises(ValueError, match="grads: expected the structure of the params"):
        tx.update(None, tx.init(PARAMS), PARAMS)
    with pytest.raises(ValueError, match=r"grads of first/bias: expected shape \(4,\), got \(1,\)"):
        tx.update(jax.tree.map(lambda w: jnp.ones(1), PARAMS), tx.init(PARAMS), PARAMS)
    with pytest.raises(ValueError, match="state: expected the SparseState that `init` makes, got tuple"):
        tx.update(PARAMS, optax.sgd(0.1).init(PARAMS), PARAMS)
    asks = sparse.prune(optax.sgd(0.1), transforms.Transform(lambda t: (), lambda t, s, c: (t, c.loss + 1)))
    with pytest.raises(
        ValueError, match=r"^method: .* ask for a batch, .* or a loss, which it has as `value=loss`; got"
    ):
        asks.update(PARAMS, asks.init(PARAMS), PARAMS)
    with pytest.raises(ValueError, match="one SparseState in it, as `prune` makes, got 0"):
        sparse.masks(optax.sgd(0.1).init(PARAMS))
    with pytest.raises(ValueError, match="params: expected leaves named first/kernel"):
        sparse.masks(tx.init(PARAMS), {"last": PARAMS["last"]})


@pytest.mark.parametrize("wrap", [lambda optimizer: optimizer, lambda optimizer: optax.MultiSteps(optimizer, 1)])
def test_extra_arguments_reach_the_optimizer_and_are_asked_for(wrap):
    plateau = optax.chain(optax.sgd(1.0), optax.contrib.reduce_on_plateau(patience=1, factor=0.5))
    tx = sparse.prune(wrap(plateau), ODD)
    state = tx.init(PARAMS)
    with pytest.raises(ValueError, match=r"^optimizer: .* argument: 'value'; it was given .*, and no extra arguments"):
        tx.update(PARAMS, state, PARAMS)
    updates, _ = tx.update(PARAMS, state, PARAMS, value=jnp.float32(1))
    assert num_alive_where_removed(optax.apply_updates(PARAMS, updates), state) == 0


def test_a_step_may_donate_params_and_state_again_and_again():
    """As loops on accelerators do: nothing that the user or the optimizer holds is given away."""
    key, mask = jax.random.key(3), jax.tree.map(lambda leaf: leaf if leaf is None else jnp.asarray(leaf), ODD,
                                                is_leaf=lambda leaf: leaf is None)  # fmt: skip
    tx = sparse.prune(optax.adam(0.1), sparse.fixed(mask), key=key)

    def step(params, state):
        updates, state = tx.update(gradient(params), state, params)
        return optax.apply_updates(params, updates), state

    step = jax.jit(step, donate_argnums=(0, 1))
    for _ in range(2):
        params = jax.tree.map(jnp.copy, PARAMS)
        state = tx.init(params)
        for _ in range(2):
            params, state = step(params, state)
    assert masks.num_kept(sparse.masks(state)) == masks.num_kept(mask)
    assert jax.random.key_data(key).shape


def test_rounds_of_a_phase_that_scores_are_taken():
    """One round after the first of two steps, in which the weights rest, keeps five."""
    none, rounds = transforms.identity(), Rounds(transforms.keep_given("global"), (1,), given=lambda r: 5)
    scoring = Phase(
        view=views.masked, trains="params", optimizer=optax.sgd(0.0), during=none, after=none, num_steps=2,
        hold_dead=False, rounds=rounds,
    )  # fmt: skip
    method = sparse.Method(lambda whole: (scoring,), keeps_scores=True)
    *_, (_, state) = train(sparse.prune(optax.sgd(0.1), method), num_steps=3)
    assert sparse.sparsity(state) == 1 - 5 / 40


@pytest.mark.parametrize(
    "method", [lambda: sparse.snip(0.9), lambda: sparse.gradual(0.9, stop=2, every=1, score="saliency")]
)
def test_a_guard_around_it_keeps_gradients_that_overflow_from_the_scores(method):
    """As the guide says; within it a NaN in all scores would leave the order of the leaves to decide."""
    rng = np.random.default_rng(0)
    params = {f"l{i}": {"kernel": jnp.asarray(rng.normal(size=(16, 16)), jnp.float32)} for i in range(3)}
    grads = jax.tree.map(lambda w: jnp.asarray(rng.normal(size=w.shape), jnp.float32), params)
    overflown = jax.tree.map(lambda g: g * jnp.inf, grads)

    def masks_after(tx, steps):
        state, at = tx.init(params), params
        for step in steps:
            updates, state = tx.update(step, state, at)
            at = optax.apply_updates(at, updates)
        return sparse.masks(state)

    want = masks_after(sparse.prune(optax.sgd(0.1), method()), [grads] * 3)
    got = masks_after(optax.apply_if_finite(sparse.prune(optax.sgd(0.1), method()), 5), [overflown, *[grads] * 3])
    assert jax.tree.all(jax.tree.map(jnp.array_equal, got, want))
    assert all(leaf.sum() > 0 for leaf in jax.tree.leaves(got))
