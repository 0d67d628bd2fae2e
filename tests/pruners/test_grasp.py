"""GraSP against stored numbers and an explicit Hessian-vector product."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rare_gems import masks
from rare_gems.models.resnet import resnet20
from rare_gems.pruners.grasp import grasp
from tests.golden import make_saliency as made
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

tempered = functools.partial(cross_entropy, temperature=200.0)


@pytest.mark.parametrize("invert", [False, True])
def test_golden(invert):
    ticket = make_ticket()
    (phase,) = grasp(jax.eval_shape(lambda: ticket.mask), sparsity=0.9, loss_fn=tempered, invert=invert)
    assert (phase.num_steps, phase.passes, phase.name) == (1, 3, "search")
    end = searched(phase, ticket, [make_batch(0)])[-1]
    close(end.scores, GOLDEN["grasp"])
    assert np.min(GOLDEN["grasp"][0]) < 0  # the score is signed
    same(kernels(end.mask), top([np.array(s) * (-1 if invert else 1) for s in GOLDEN["grasp"]], COUNT))


def test_the_score_is_w_times_hessian_times_gradient():
    ticket, batch = make_ticket(), make_batch(1)
    (phase,) = grasp(ticket.mask, sparsity=0.9, loss_fn=cross_entropy)
    end = searched(phase, ticket, [batch])[-1]

    def gradient(weights):  # biases stand still
        params = [w if p is None else p for w, p in zip(ticket.params, weights, strict=True)]
        grads = jax.grad(cross_entropy, has_aux=True)(params, {"calls": jnp.int32(0)}, batch, KEY)[0]
        return masks.map_kept(lambda g: g, grads, ticket.mask)

    weights = masks.map_kept(lambda w: w, ticket.params, ticket.mask)
    product = jax.jit(lambda w: jax.jvp(gradient, (w,), (gradient(w),))[1])(weights)
    close(end.scores, kernels(jax.tree.map(jnp.multiply, weights, product)), rtol=1e-5)


def test_batches_add_up():
    (phase,) = grasp(make_ticket().mask, sparsity=0.9, loss_fn=tempered, batches=2)
    params = [np.array(p) for p in GOLDEN["params"]]
    second = made.grasp(params, (np.array(GOLDEN["images"][1]), np.array(GOLDEN["labels"][1])))
    end = searched(phase, make_ticket(), [make_batch(0), make_batch(1)])[-1]
    close(end.scores, [np.array(a) + b for a, b in zip(GOLDEN["grasp"], second, strict=True)])


def test_with_batch_norm():
    _, ticket, state, loss_fn, batch = batch_norm_case()
    (phase,) = grasp(ticket.mask, sparsity=0.9, loss_fn=loss_fn)
    end = searched(phase, ticket, [batch], state, loss_fn)[-1]
    masks.check(end.mask, masks.count_for(masks.num_prunable(end.mask), 0.9))
    # Before BatchNorm the loss ignores a layer's scale, so g falls as it grows: sum w * Hg = -||g||^2 in that layer.
    grads = jax.jit(jax.grad(loss_fn, has_aux=True))(ticket.params, state, batch, KEY)[0]
    norm = float(jnp.sum(jnp.square(grads["conv1"]["kernel"])))
    assert norm > 0
    np.testing.assert_allclose(float(end.scores["conv1"]["kernel"].sum()), -norm, rtol=1e-3)


def test_resnet20():
    case = batch_norm_case(resnet20(width=0.25))
    (phase,) = grasp(case[1].mask, sparsity=0.9, loss_fn=case[3])
    trace(phase, case)


def test_errors():
    mask = make_ticket().mask
    with pytest.raises(ValueError, match=r"0.999 keeps none of 172 weights"):
        grasp(mask, sparsity=0.999, loss_fn=tempered)
    with pytest.raises(ValueError, match=r"batches: expected 1 or more, got 0"):
        grasp(mask, sparsity=0.5, loss_fn=tempered, batches=0)
    with pytest.raises(ValueError, match="at_least: expected floors that sum to at most the 17 weights kept"):
        grasp(mask, sparsity=0.9, loss_fn=tempered, at_least=6)
