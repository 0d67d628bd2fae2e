"""The line between two networks against NumPy in float64: points, fresh statistics, loss, accuracy, barrier."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rare_gems.analysis import connectivity
from rare_gems.analysis.running_statistics import fresh_statistics
from rare_gems.models import layers
from rare_gems.models.model import from_module

RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(3, 8, 5)).astype(np.float32) * 3 + 40  # a mean that is large against the deviation
LABELS = RNG.integers(0, 4, size=(3, 8)).astype(np.int32)


class Net(nnx.Module):
    """A dense layer, BatchNorm, ReLU, a dense layer."""

    def __init__(self):
        self.first, self.bn, self.last = layers.Linear(5, 6), layers.BatchNorm(6, affine=True), layers.Linear(6, 4)

    def __call__(self, x, train):
        return self.last(self.bn(self.first(x), train, relu=True))


@pytest.fixture(scope="module")
def net():
    model = from_module(Net)
    params, state = jax.eval_shape(model.init, jax.random.key(0))
    a, b, state = (
        jax.tree.map(lambda leaf: RNG.normal(1, 0.5, leaf.shape).astype(np.float32), tree)
        for tree in (params, params, state)
    )
    return model, a, b, state


def wide(tree):
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), tree)


def hidden_of(params):
    return IMAGES.astype(np.float64) @ params["first"]["kernel"] + params["first"]["bias"]


def expected_statistics(params):
    """Means over batches of each batch's mean and unbiased variance."""
    hidden = hidden_of(wide(params))
    return hidden.mean(1).mean(0), hidden.var(1, ddof=1).mean(0)


def expected_point(a, b, alpha):
    p = jax.tree.map(lambda x, y: (1 - alpha) * x + alpha * y, wide(a), wide(b))
    mean, var = expected_statistics(p)
    normal = (hidden_of(p) - mean) / np.sqrt(var + 1e-5) * p["bn"]["scale"] + p["bn"]["bias"]
    logits = np.maximum(normal, 0) @ p["last"]["kernel"] + p["last"]["bias"]
    log = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    loss = -np.take_along_axis(log, LABELS[..., None], -1).mean()
    return loss, (logits.argmax(-1) == LABELS).mean()


def test_statistics_are_the_means_over_batches_whatever_they_were(net):
    model, a, _, state = net
    got = fresh_statistics(model.apply, a, state, list(IMAGES))
    mean, var = expected_statistics(a)
    np.testing.assert_allclose(got["bn"]["mean"], mean, rtol=2e-5)
    np.testing.assert_allclose(got["bn"]["var"], var, rtol=2e-5)
    assert jax.tree.map(lambda x: x.dtype, got) == jax.tree.map(lambda x: x.dtype, state)
    assert fresh_statistics(model.apply, a, state, []) is not None
    unmoved = fresh_statistics(model.apply, a, state, [])
    assert all(map(np.array_equal, jax.tree.leaves(unmoved), jax.tree.leaves(state)))


def test_points_have_loss_and_accuracy_of_numpy(net):
    model, a, b, state = net
    alphas = [0.0, 0.3, 1.0]
    examples = [(IMAGES[:2].reshape(16, 5), LABELS[:2].reshape(16)), (IMAGES[2], LABELS[2])]  # of other sizes
    got = connectivity.along(model.apply, a, b, state, alphas=alphas, batches=list(IMAGES), examples=examples)
    want = np.array([expected_point(a, b, alpha) for alpha in alphas]).T
    np.testing.assert_allclose(got.loss, want[0], rtol=1e-4)
    np.testing.assert_array_equal(got.accuracy, want[1])
    np.testing.assert_array_equal(got.alphas, alphas)


def test_one_compilation_serves_all_points_and_pairs(net):
    model, a, b, state = net
    traced = []

    def apply(params, state, x, train):
        traced.append(train)
        return model.apply(params, state, x, train)

    line, given = connectivity.make_along(apply), {"batches": [IMAGES[0]], "examples": [(IMAGES[0], LABELS[0])]}
    line(a, b, state, alphas=[0.0, 0.5], **given)
    line(b, a, state, alphas=[0.25], **given)
    assert sorted(traced) == [False, True]


def test_other_leaves_of_the_state_stay():
    def apply(params, state, x, train):
        # A table that is read in training, a counter, a key, and a statistic of another momentum.
        x = x * state["table"] * params
        moved = state | {"mean": 0.5 * state["mean"] + 0.5 * x.mean(0), "seen": state["seen"] + 1}
        return x, moved if train else state

    state = {
        "table": jnp.arange(1.0, 6.0), "mean": jnp.full(5, 8.0), "seen": jnp.int32(3), "key": jax.random.key(0),
    }  # fmt: skip
    batch = IMAGES[0] * 0.01
    state["table"] = jnp.broadcast_to(state["table"], batch.shape)
    got = fresh_statistics(apply, jnp.float32(2), state, [batch])
    np.testing.assert_allclose(got["mean"], (batch.astype(float) * np.arange(1, 6) * 2).mean(0), rtol=1e-5)
    assert got["seen"] == 3
    np.testing.assert_array_equal(got["table"], state["table"])


def test_a_state_that_is_no_average_is_refused_by_name():
    def apply(params, state, x, train):
        return x, {"net": {"peak": jnp.maximum(state["net"]["peak"], x.max(0))}} if train else state

    with pytest.raises(ValueError, match=r"state of net/peak: expected a running average"):
        fresh_statistics(apply, {}, {"net": {"peak": jnp.zeros(5)}}, [IMAGES[0]])


def test_path_is_exact_at_the_ends_and_keeps_zeros_and_counters():
    a = {"w": jnp.array([0.1, 0.0, 3.0]), "n": jnp.int32(3)}
    b = {"w": jnp.array([0.7, 0.0, -1.0]), "n": jnp.int32(4)}
    for alpha, end in ((0.0, a), (1.0, b)):
        np.testing.assert_array_equal(connectivity.path(a, b, alpha)["w"], end["w"])
    middle = jax.jit(connectivity.path)(a, b, 0.5)
    np.testing.assert_allclose(middle["w"], [0.4, 0.0, 1.0], rtol=1e-6)
    assert middle["n"] == 3
    with pytest.raises(ValueError, match=r"b of w: expected float32\[3\] as in a, got float16\[3\]"):
        connectivity.path(a, b | {"w": b["w"].astype(jnp.float16)}, 0.5)
    with pytest.raises(ValueError, match="b: expected the structure of a"):
        connectivity.path(a, {"w": b["w"]}, 0.5)


def test_barriers():
    alphas = np.linspace(0, 1, 5)
    errors = np.array([0.1, 0.3, 0.5, 0.4, 0.2])
    assert connectivity.barrier(errors, alphas) == pytest.approx(0.5 - 0.15)
    line = max(e - ((1 - t) * 0.1 + t * 0.2) for e, t in zip(errors, alphas, strict=True))
    assert connectivity.barrier(errors, alphas, "line") == pytest.approx(line)
    assert connectivity.barrier(errors[::-1], alphas[::-1]) == connectivity.barrier(errors, alphas)
    assert connectivity.barrier([0.1, 0.15, 0.2], [0, 0.5, 1]) == pytest.approx(0.05)  # the higher end
    assert connectivity.barrier([0.1, 0.15, 0.2], [0, 0.5, 1], "line") == pytest.approx(0, abs=1e-15)
    for wrong in ([0.0, 0.5, 0.9], [0.0, 1.0, 1.5], [0.0, 1.0]):
        with pytest.raises(ValueError, match="expected"):
            connectivity.barrier([0.1, 0.2, 0.3], wrong)
    with pytest.raises(ValueError, match="examples: expected at least one batch"):
        connectivity.along(lambda p, s, x, t: (x, s), {}, {}, {}, alphas=[0.0], batches=[], examples=[])


def test_the_ends_of_a_path_are_exact():
    a, b = {"w": np.array([1.0, 2.0], np.float32)}, {"w": np.array([np.inf, 5.0], np.float32)}
    for ends in ((a, b), (b, a)):
        for alpha, end in zip((0.0, 1.0), ends, strict=True):
            np.testing.assert_array_equal(connectivity.path(*ends, alpha)["w"], end["w"])
    wide = {"w": np.array([0.0, 1 + 1e-12])}
    with pytest.raises(ValueError, match=r"a/w: expected .*float64"):
        connectivity.path(wide, wide, 0.0)


def averaging(params, state, x, train):
    """A normalization that keeps running averages, with momentum 0.9."""
    moved = {"mean": 0.9 * state["mean"] + 0.1 * x.mean(0), "var": 0.9 * state["var"] + 0.1 * x.var(0)}
    return x, moved if train else state


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("mean", [0.0, 2.0])
def test_statistics_that_are_those_of_a_batch_already(order, mean):
    """Once a leaf that the first batch left where it was counted as none that moves."""
    batches = [jnp.array([[mean], [mean]]), jnp.array([[5.0], [7.0]])][::order]
    found = fresh_statistics(averaging, {}, {"mean": jnp.full(1, mean), "var": jnp.zeros(1)}, batches)
    np.testing.assert_allclose(found["mean"], [(mean + 6) / 2], rtol=1e-5)
    np.testing.assert_allclose(found["var"], [0.5], rtol=1e-5)
