"""ProsPr's meta-gradients against stored central differences of an unrolled training."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rare_gems import masks
from rare_gems.models.resnet import resnet20
from rare_gems.pruners.prospr import loss_after_steps, prospr
from tests.pruners.test_snip import (
    COUNT,
    GOLDEN,
    KEY,
    batch_norm_case,
    close,
    cross_entropy,
    kernels,
    make_batch,
    make_ticket,
    same,
    searched,
    top,
    trace,
)

VARIANTS = {
    "prospr": {},
    "prospr_momentum": {"momentum": 0.9},
    "prospr_first_order": {"momentum": 0.9, "first_order": True},
    "prospr_split": {"split_batch": True},
}
PASSES = {"prospr": 10, "prospr_momentum": 10, "prospr_first_order": 4, "prospr_split": 3}


@pytest.mark.parametrize("name", VARIANTS)
def test_golden(name):
    ticket = make_ticket()
    shapes = jax.eval_shape(lambda: ticket.mask)
    (phase,) = prospr(shapes, sparsity=0.9, loss_fn=cross_entropy, inner_learning_rate=0.5, **VARIANTS[name])
    assert (phase.num_steps, phase.passes, phase.name) == (1, PASSES[name], "search")
    end = searched(phase, ticket, [make_batch(0)])[-1]
    close(end.scores, GOLDEN[name])
    same(kernels(end.mask), top(GOLDEN[name], COUNT))


def test_the_variants_differ():
    first = np.array(GOLDEN["prospr"][1])
    for name in ["snip", *list(VARIANTS)[1:]]:
        assert np.abs(np.array(GOLDEN[name][1]) - first).max() > 0.1 * first.max(), name


def test_first_order_is_the_gradient_after_training():
    objective = loss_after_steps(cross_entropy, inner_steps=2, inner_learning_rate=0.3, first_order=True)
    state, batch, params = {"calls": jnp.int32(0)}, make_batch(0), make_ticket().params
    got = jax.jit(jax.grad(objective, has_aux=True))(params, state, batch, KEY)[0]
    gradient = jax.jit(jax.grad(cross_entropy, has_aux=True))
    for _ in range(2):
        params = jax.tree.map(lambda w, g: w - 0.3 * g, params, gradient(params, state, batch, KEY)[0])
    close(got, kernels(gradient(params, state, batch, KEY)[0]), rtol=1e-5)


def test_batches_add_up_and_inverted_keeps_the_lowest():
    ticket, options = make_ticket(), {"sparsity": 0.9, "loss_fn": cross_entropy, "inner_steps": 1}
    (one,) = prospr(ticket.mask, **options)
    signed = [searched(one, ticket, [make_batch(i)])[0].scores for i in range(2)]
    (two,) = prospr(ticket.mask, batches=2, invert=True, **options)
    end = searched(two, ticket, [make_batch(0), make_batch(1)])[-1]
    wanted = [np.abs(a + b) for a, b in zip(*map(kernels, signed), strict=True)]
    close(end.scores, wanted, rtol=1e-6)
    same(kernels(end.mask), top([-s for s in wanted], COUNT))


def test_the_state_moves_with_the_inner_steps_only():
    """A loss that reads its state: L = w * calls at calls 7, 8, 9, and the caller's 7 comes back."""

    def loss_fn(params, state, batch, key):
        return params * state["calls"].astype(jnp.float32), ({"calls": state["calls"] + 1}, jnp.float32(0))

    objective = loss_after_steps(loss_fn, inner_steps=2, inner_learning_rate=1.0)
    value, (state, _) = objective(jnp.float32(100), {"calls": jnp.int32(7)}, None, KEY)
    assert value == (100 - 7 - 8) * 9
    assert state["calls"] == 7


def test_with_batch_norm():
    _, ticket, state, loss_fn, batch = batch_norm_case()
    (phase,) = prospr(ticket.mask, sparsity=0.9, loss_fn=loss_fn, inner_steps=1, split_batch=True)
    *_, signed, end = searched(phase, ticket, [batch], state, loss_fn)
    masks.check(end.mask, masks.count_for(masks.num_prunable(end.mask), 0.9))
    assert all(bool(jnp.isfinite(s).all()) and float(jnp.abs(s).max()) > 0 for s in jax.tree.leaves(signed.scores))


def test_resnet20():
    case = batch_norm_case(resnet20(width=0.25))
    (phase,) = prospr(case[1].mask, sparsity=0.9, loss_fn=case[3], inner_steps=1)
    trace(phase, case)


def test_errors():
    mask = make_ticket().mask
    for changes, match in [
        ({"sparsity": 0.999}, r"0.999 keeps none of 172 weights"),
        ({"inner_steps": 0}, r"inner_steps: expected 1 or more, got 0"),
        ({"batches": 0}, r"batches: expected 1 or more, got 0"),
        ({"inner_learning_rate": 0.0}, r"inner_learning_rate: expected a positive number, got 0.0"),
        ({"momentum": 1.0}, r"momentum: expected a number in \[0, 1\), got 1.0"),
    ]:
        with pytest.raises(ValueError, match=match):
            prospr(mask, **{"sparsity": 0.9, "loss_fn": cross_entropy, **changes})
    (phase,) = prospr(mask, sparsity=0.9, loss_fn=cross_entropy, inner_steps=2, split_batch=True)
    with pytest.raises(ValueError, match=r"divisible by 3 \(inner_steps \+ 1\), got shape \(16, 6\)"):
        phase.loss_fn(make_ticket().params, {"calls": jnp.int32(0)}, make_batch(0), KEY)
