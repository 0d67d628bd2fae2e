"""SNIP against stored numbers, and what the tests of its relatives share: the network of golden/make_saliency.py."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from rare_gems import masks
from rare_gems.models.layers import BatchNorm, Conv, Linear
from rare_gems.models.model import from_module
from rare_gems.models.resnet import BasicBlock
from rare_gems.phase import Ticket
from rare_gems.pruners.parts.finetune import finetune
from rare_gems.pruners.snip import snip
from rare_gems.training import trainer
from tests.golden import make_saliency as made

GOLDEN = json.loads((Path(made.__file__).parent / "saliency.json").read_text())
KEY = jax.random.key(0)
COUNT = 17  # of 172, at a sparsity of 0.9


def make_ticket(params=None):
    params = [jnp.array(p, jnp.float32) for p in GOLDEN["params"]] if params is None else params
    mask = masks.ones(params, lambda path, leaf: leaf.ndim > 1)
    return Ticket(params, masks.map_kept(lambda w: np.full(w.shape, 0.5, np.float32), params, mask), mask)


def make_batch(index):
    return jnp.array(GOLDEN["images"][index], jnp.float32), jnp.array(GOLDEN["labels"][index], jnp.int32)


def cross_entropy(params, state, batch, key, temperature=1.0):
    """The golden network; its state counts the calls, as BatchNorm statistics would move."""
    del key
    x = batch[0]
    for i in range(0, len(params), 2):
        x = x @ params[i] + params[i + 1][None]
        x = jax.nn.relu(x) if i + 2 < len(params) else x / temperature
    loss = optax.softmax_cross_entropy_with_integer_labels(x, batch[1]).mean()
    return loss, ({"calls": state["calls"] + 1}, jnp.float32(0))


def searched(phase, ticket, batches, state=None, loss_fn=cross_entropy):
    """The ticket after each step, and after the phase. Params and model state are seen to stay."""
    state = {"calls": jnp.int32(7)} if state is None else state
    carry = trainer.begin(phase, ticket, state, KEY)
    step, tickets = jax.jit(trainer.make_step(loss_fn, phase)), []
    for i in range(phase.num_steps):
        carry = step(carry, batches[i % len(batches)])
        tickets.append(carry.ticket)  # not donated, so it stays
    tickets.append(trainer.finish(phase, carry))  # as it is: its selection is compiled once for all counts
    assert carry.totals.first_bad == -1
    same((carry.model_state, carry.ticket.params, tickets[-1].params), (state, ticket.params, ticket.params))
    return tickets


def same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


def kernels(tree):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


def close(scores, wanted, rtol=1e-4):
    for got, want in zip(kernels(scores), wanted, strict=True):
        np.testing.assert_allclose(got, want, rtol=rtol, atol=rtol * np.abs(want).max())


def top(scores, count):
    """The `count` highest of all, or ("layer" counts) of each array, by sorting."""
    if not isinstance(count, int):
        return [top([s], c)[0] for s, c in zip(scores, count, strict=True)]
    order = np.argsort(-np.concatenate([np.ravel(s) for s in scores]), kind="stable")  # of ties, the first
    kept = np.isin(np.arange(order.size), order[:count])
    ends = np.cumsum([np.size(s) for s in scores])[:-1]
    return [part.reshape(np.shape(s)) for part, s in zip(np.split(kept, ends), scores, strict=True)]


class Small(nnx.Module):
    """What ResNet-20 is made of, once each; BatchNorm with scale and bias, which are not prunable."""

    def __init__(self):
        self.conv1, self.bn1 = Conv(3, 4), BatchNorm(4, affine=True)
        self.block, self.linear = BasicBlock(4, 8, 2, affine=True), Linear(8, 10)

    def __call__(self, x, train):
        return self.linear(self.block(self.bn1(self.conv1(x), train, relu=True), train).mean((1, 2)))


def batch_norm_case(model=None):
    """A network with BatchNorm, its statistics not those of an untrained one; eight images."""
    model = model or from_module(Small)
    params, state = jax.jit(model.init)(KEY)
    state = jax.tree.map(lambda s: np.asarray(s) + np.float32(0.5), state)

    def loss_fn(params, state, batch, key):
        logits, state = model.apply(params, state, batch[0], True)
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch[1]).mean(), (state, jnp.float32(0))

    images = np.random.default_rng(1).normal(size=(8, 8, 8, 3))
    return model, make_ticket(params), state, loss_fn, (jnp.float32(images), jnp.arange(8, dtype=jnp.int32))


def trace(phase, case):
    """Traces a step, which is where a network that cannot be differentiated twice would fail."""
    _, ticket, state, loss_fn, batch = case
    jax.eval_shape(lambda: trainer.make_step(loss_fn, phase)(trainer.begin(phase, ticket, state, KEY), batch))


@pytest.mark.parametrize("invert", [False, True])
@pytest.mark.parametrize("scope", ["global", "layer"])
def test_golden(scope, invert):
    ticket = make_ticket()
    shapes = jax.eval_shape(lambda: ticket.mask)
    (phase,) = snip(shapes, sparsity=0.9, loss_fn=cross_entropy, batches=2, scope=scope, invert=invert)
    end = searched(phase, ticket, [make_batch(0), make_batch(1)])[-1]
    close(end.scores, GOLDEN["snip"])
    wanted = [np.array(s) * (-1 if invert else 1) for s in GOLDEN["snip"]]
    counts = COUNT if scope == "global" else [6, 8, 3]  # shares of 17: 5.93, 7.91, 3.16
    same(kernels(end.mask), top(wanted, counts))
    assert end.mask[1] is None


def test_one_batch_by_default():
    (phase,) = snip(make_ticket().mask, sparsity=0.9, loss_fn=cross_entropy)
    assert phase.num_steps == phase.passes == 1
    params, ticket = [np.array(p) for p in GOLDEN["params"]], make_ticket()
    batch = np.array(GOLDEN["images"][2]), np.array(GOLDEN["labels"][2])
    close(searched(phase, ticket, [make_batch(2)])[-1].scores, made.snip(params, [batch]))


def test_a_floor_for_each_layer():
    ticket = make_ticket()
    (phase,) = snip(jax.eval_shape(lambda: ticket.mask), sparsity=0.9, loss_fn=cross_entropy, batches=2, at_least=5)
    end = searched(phase, ticket, [make_batch(0), make_batch(1)])[-1]
    scores = [np.array(s) for s in GOLDEN["snip"]]
    base = top(scores, [5, 5, 5])
    rest = top([np.where(b, -np.inf, s) for s, b in zip(scores, base, strict=True)], COUNT - 15)
    same(kernels(end.mask), [b | r for b, r in zip(base, rest, strict=True)])
    with pytest.raises(ValueError, match="at most the 17 weights kept, got 6 in each of 3 layers, 18 in all"):
        snip(ticket.mask, sparsity=0.9, loss_fn=cross_entropy, at_least=6)


def test_batch_norm_scores_by_the_batch_and_stays():
    _, ticket, state, loss_fn, batch = batch_norm_case()
    (phase,) = snip(ticket.mask, sparsity=0.9, loss_fn=loss_fn)
    signed, end = searched(phase, ticket, [batch], state, loss_fn)
    masks.check(end.mask, masks.count_for(masks.num_prunable(end.mask), 0.9))
    # By batch statistics the loss does not change with the scale of a layer, so that sum w * dL/dw = 0.
    first = np.asarray(signed.scores["conv1"]["kernel"])
    assert abs(first.sum()) < 1e-3 * np.abs(first).sum()


def test_recipe_and_errors():
    mask, last = make_ticket().mask, finetune(num_epochs=1, steps_per_epoch=1, learning_rate=0.1)
    search, tuned = snip(mask, sparsity=0.5, loss_fn=cross_entropy, finetune=last)
    assert search.name == "search"
    assert tuned is last
    for changes, match in [
        ({"sparsity": 0.999}, r"0.999 keeps none of 172 weights; expected a lower one"),
        ({"sparsity": 50}, r"expected a fraction removed in \[0, 1\), got 50"),
        ({"sparsity": 0.99, "scope": "layer"}, r"leave none of the 32 in 4"),
        ({"scope": "rows"}, r"scope: expected 'global' or 'layer', got 'rows'"),
        ({"batches": 0}, r"batches: expected 1 or more, got 0"),
    ]:
        with pytest.raises(ValueError, match=match):
            snip(mask, **{"sparsity": 0.5, "loss_fn": cross_entropy, **changes})


def test_the_stored_numbers_are_what_their_maker_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(made, "__file__", str(tmp_path / "make_saliency.py"))
    made.main()
    again = json.loads((tmp_path / "saliency.json").read_text())
    assert again.keys() == GOLDEN.keys()
    assert again["images"] == GOLDEN["images"]
    for new, old in zip(jax.tree.leaves(again), jax.tree.leaves(GOLDEN), strict=True):
        np.testing.assert_allclose(new, old, rtol=1e-6, atol=1e-13)
