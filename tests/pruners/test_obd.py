"""Optimal Brain Damage: curvatures against NumPy in float64, and rounds that remove the lowest."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rare_gems import masks
from rare_gems.phase import Ticket
from rare_gems.pruners.obd import curvature_loss, obd
from rare_gems.pruners.parts.finetune import finetune
from rare_gems.training import trainer
from tests.golden.make_saliency import KERNELS, SHAPES, loss_and_gradient

RNG = np.random.default_rng(5)
START = [RNG.normal(scale=0.6, size=shape) for shape in SHAPES]
IMAGES, LABELS = RNG.normal(size=(12, 6)), RNG.integers(0, 4, size=12)
PARAMS = [jnp.float32(p) for p in START]
BATCH = jnp.float32(IMAGES), jnp.int32(LABELS)
MASK = [jnp.ones(shape, bool) if i in KERNELS else None for i, shape in enumerate(SHAPES)]
KEY = jax.random.key(2)


def outputs(params, state, batch, key):
    del state, key
    hidden = jax.nn.relu(batch[0] @ params[0] + params[1][None])
    hidden = jax.nn.relu(hidden @ params[2] + params[3][None])
    return hidden @ params[4] + params[5][None]


def loss_fn(params, state, batch, key):
    logits = outputs(params, state, batch, key)
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch[1]).mean(), ("moved", jnp.float32(0))


def halves(curvature):
    """key -> what the loss has as its gradient: h w / 2."""
    loss = curvature_loss(loss_fn, MASK, curvature, outputs)
    return jax.jit(lambda key: jax.grad(lambda params: loss(params, None, BATCH, key)[0])(PARAMS))


def in_numpy(second):
    return [h * START[i] / 2 for i, h in zip(KERNELS, second, strict=True)]


def hessian_diagonal(step=1e-5):
    """By central differences of the gradient, one weight after the other."""
    found = []
    for i in KERNELS:
        second = np.zeros(SHAPES[i])
        for at in np.ndindex(*SHAPES[i]):
            sides = []
            for sign in (1, -1):
                moved = [p.copy() for p in START]
                moved[i][at] += sign * step
                sides.append(loss_and_gradient(moved, IMAGES, LABELS)[1][i][at])
            second[at] = (sides[0] - sides[1]) / (2 * step)
        found.append(second)
    return found


@pytest.fixture(scope="module")
def diagonal():
    return hessian_diagonal()


def kernels(grads):
    return [np.asarray(grads[i]) for i in KERNELS]


def test_exact_is_the_diagonal_of_the_hessian(diagonal):
    grads = halves("exact")(KEY)
    for got, wanted in zip(kernels(grads), in_numpy(diagonal), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-3, atol=2e-6)
    for i in set(range(6)) - set(KERNELS):
        assert not np.any(grads[i])  # biases are not prunable
    loss = curvature_loss(loss_fn, MASK, "exact")
    value, (state, _) = loss(PARAMS, "state", BATCH, KEY)
    assert state == "state"  # scoring moves no statistics
    np.testing.assert_allclose(value, loss_and_gradient(START, IMAGES, LABELS)[0], rtol=1e-5)


def test_random_signs_give_that_diagonal_on_average(diagonal):
    draws = jax.lax.map(halves("hutchinson"), jax.random.split(KEY, 4000))
    for got, wanted in zip(kernels(draws), in_numpy(diagonal), strict=True):
        error = np.abs(got.mean(0) - wanted) / (got.std(0) / 4000**0.5 + 1e-6)
        assert error.max() < 5
        assert got.std(0).max() > 0


def test_fisher_is_the_squared_gradient():
    _, slope = loss_and_gradient(START, IMAGES, LABELS)
    for got, wanted in zip(kernels(halves("fisher")(KEY)), in_numpy([slope[i] ** 2 for i in KERNELS]), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-8)


def test_drawn_labels_give_the_gauss_newton_diagonal_on_average():
    def softmax(images):
        hidden = np.maximum(images @ START[0] + START[1], 0)
        odds = np.exp(np.maximum(hidden @ START[2] + START[3], 0) @ START[4] + START[5])
        return odds / odds.sum(1, keepdims=True)

    odds, wanted = softmax(IMAGES), [np.zeros(SHAPES[i]) for i in KERNELS]
    for n in range(len(IMAGES)):  # sum over examples and classes of p (d log p / dw)^2, for the mean loss
        for label in range(4):
            _, slope = loss_and_gradient(START, IMAGES[n : n + 1], np.array([label]))
            for place, i in enumerate(KERNELS):
                wanted[place] += odds[n, label] * slope[i] ** 2 / len(IMAGES) ** 2
    draws = jax.lax.map(halves("gauss_newton"), jax.random.split(KEY, 4000))
    for got, expected in zip(kernels(draws), in_numpy(wanted), strict=True):
        error = np.abs(got.mean(0) - expected) / (got.std(0) / 4000**0.5 + 1e-7)
        assert error.max() < 5


def test_a_round_removes_the_lowest_saliencies(diagonal):
    given = {"sparsity": 0.75, "num_epochs": 1, "steps_per_epoch": 1, "learning_rate": 0.1, "objective": loss_fn}
    tune = finetune(num_epochs=1, steps_per_epoch=1, learning_rate=0.1)
    recipe = obd(MASK, curvature="exact", batches=2, rounds=2, round_epochs=3, finetune=tune, **given)
    assert [phase.num_steps for phase in recipe] == [1, 2, 3, 2, 1]
    assert recipe[1] is recipe[3]  # compiled once
    assert recipe[1].passes == 3 * 172
    scoring = recipe[1]
    zeros = [None if m is None else jnp.zeros(m.shape) for m in MASK]
    carry = trainer.begin(scoring, Ticket(PARAMS, zeros, MASK), None, KEY)
    step = jax.jit(trainer.make_step(loss_fn, scoring))
    ticket = trainer.finish(scoring, step(step(carry, BATCH), BATCH))
    saliency = np.concatenate([(h * START[i] ** 2).ravel() for i, h in zip(KERNELS, diagonal, strict=True)])
    mask = np.concatenate([np.asarray(ticket.mask[i]).ravel() for i in KERNELS])
    assert mask.sum() == 86  # round(172 * 0.25^(1 / 2))
    assert saliency[mask].min() >= saliency[~mask].max() - 1e-6
    got = np.concatenate([np.asarray(ticket.scores[i]).ravel() for i in KERNELS])
    np.testing.assert_allclose(got, saliency, rtol=1e-3, atol=1e-5)  # two batches of h w^2 / 2
    last = trainer.finish(scoring, trainer.begin(scoring, ticket, None, KEY))
    masks.check(last.mask, 43)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"curvature": "kfac"}, "curvature: expected one of exact, hutchinson, gauss_newton, fisher, got 'kfac'"),
        ({"curvature": "gauss_newton"}, "curvature: gauss_newton draws labels .* expected outputs, got None"),
        ({"batches": 0}, "batches: expected 1 or more, got 0"),
        ({"rounds": 0}, "^rounds: expected 1 or more, got 0"),
        ({"rounds": 400}, "rounds: 400 are too many for 172 weights"),
        ({"sparsity": 0.999}, "0.999 keeps none of 172 weights"),
        ({"rounds": 2, "round_epochs": 0}, "expected 1 or more, got 0 and 5"),
        ({"num_epochs": 0}, "expected 1 or more, got 0 and 5"),
        ({"sparsity": 0.0, "rounds": 1}, r"sparsity: expected a fraction in \(0, 1\), got 0.0"),
    ],
)
def test_errors(changes, match):
    given = {"sparsity": 0.5, "num_epochs": 2, "steps_per_epoch": 5, "learning_rate": 0.1, "objective": loss_fn}
    with pytest.raises(ValueError, match=match):
        obd(MASK, **given | changes)
