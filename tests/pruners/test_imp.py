"""IMP and learning-rate rewinding against a float64 NumPy run of the papers' algorithms, and bit for bit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rare_gems import masks
from rare_gems.phase import Context, Ticket
from rare_gems.pruners.imp import imp, lottery_ticket, lrr, rounds_for
from rare_gems.pruners.parts.finetune import finetune
from rare_gems.training import trainer
from tests.toy import NUM_BATCHES, make_toy

TRAIN = {"round_epochs": 4, "steps_per_epoch": NUM_BATCHES, "learning_rate": 0.5, "momentum": 0.9, "weight_decay": 0.01}
SHORT = {name: value for name, value in TRAIN.items() if name != "round_epochs"}


def _replayed(toy, recipe):
    """Every phase's end, through the trainer."""
    options = {"loss_fn": toy.loss_fn, "feed": toy.feed, "key": jax.random.key(7), "loop": "python"}
    return [m for m in trainer.epochs(recipe, toy.ticket, toy.model_state, **options) if m.ended]


def _constant(toy):
    """The toy with batches of equal data, so that a run in NumPy needs no order of examples."""
    return toy._replace(feed=toy.feed._replace(data=jnp.full(12, 0.7)))


def _numpy_imp(toy, counts, rewind_step, rewinds):
    """Train, prune, rewind in float64, from the loss's own formula mean(x (w - t)^2) / 100, rates 0.5, and 0.05 from
    epoch 2 (the milestones [E/2, 2E/3] of 4 epochs)."""
    names = [("first", "kernel"), ("first", "bias"), ("last", "kernel"), ("last", "bias")]
    start = {n: np.array(toy.ticket.params[n[0]][n[1]], np.float64) for n in names}
    targets = _targets(toy)
    mask = {n: np.ones(start[n].shape, bool) for n in names}

    def train(weights, first, last):
        weights = {n: weights[n] * mask[n] for n in names}
        velocity = {n: np.zeros_like(weights[n]) for n in names}
        for step in range(first, last):
            rate = 0.5 if step // NUM_BATCHES < 2 else 0.05
            for n in names:
                slope = 2 * 0.7 * (weights[n] - targets[n]) / 100 * mask[n] + 0.01 * weights[n]
                velocity[n] = 0.9 * velocity[n] + slope
                weights[n] = weights[n] - rate * velocity[n]
        return weights

    total = 4 * NUM_BATCHES
    origin = train(start, 0, rewind_step)
    weights, history = origin, []
    for count in counts:
        weights = train(weights, rewind_step, total)
        kernels = [n for n in names if n[1] == "kernel"]
        flat = np.concatenate([np.where(mask[n], np.abs(weights[n]), -1).ravel() for n in kernels])
        top = np.zeros(flat.size, bool)
        top[np.argsort(-flat, kind="stable")[:count]] = True
        ends = np.cumsum([mask[n].size for n in kernels])[:-1]
        mask |= {n: part.reshape(mask[n].shape) for n, part in zip(kernels, np.split(top, ends), strict=True)}
        source = origin if rewinds else weights
        weights = {n: source[n] * mask[n] for n in names}
        history.append((weights, {n: mask[n].copy() for n in kernels}))
    return history


def _targets(toy):
    """The toy's hidden targets, from the gradient at zero: dL/dw = -2 x t / 100."""
    zero = jax.tree.map(jnp.zeros_like, toy.ticket.params)
    batch, key = jnp.full(4, 0.7), jax.random.key(0)
    grads = jax.grad(lambda p: toy.loss_fn(p, toy.model_state, batch, key)[0])(zero)
    return {(a, b): np.array(grads[a][b], np.float64) * 100 / (-2 * 0.7) for a in grads for b in grads[a]}


@pytest.mark.parametrize(("rewind_step", "rewinds"), [(0, True), (4, True), (0, False)])
def test_rounds_follow_the_papers(rewind_step, rewinds):
    toy = _constant(make_toy())
    if rewinds:
        recipe = imp(toy.ticket.mask, sparsity=0.8, rounds=3, rewind_step=rewind_step, **TRAIN)
    else:
        recipe = lrr(toy.ticket.mask, sparsity=0.8, rounds=3, **TRAIN)
    counts = [103, 60, 35]  # 176 * 0.2^(1/3), 176 * 0.2^(2/3), 176 - round(140.8)
    moments = _replayed(toy, recipe)[1 if rewind_step else 0 :]
    assert [masks.num_kept(m.ticket.mask) for m in moments] == counts
    for moment, (weights, mask) in zip(moments, _numpy_imp(toy, counts, rewind_step, rewinds), strict=True):
        for name, kept in mask.items():
            np.testing.assert_array_equal(moment.ticket.mask[name[0]][name[1]], kept)
        for name, values in weights.items():
            np.testing.assert_allclose(moment.ticket.params[name[0]][name[1]], values, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("rewind_step", [0, 5])
def test_rewinding_is_bit_for_bit_also_of_the_state(rewind_step):
    toy = make_toy()
    recipe = imp(
        toy.ticket.mask, sparsity=0.9, rounds=2, rewind_step=rewind_step, rewind_batch_norm=True, **TRAIN,
        finetune=finetune(num_epochs=1, steps_per_epoch=NUM_BATCHES, learning_rate=0.1),
    )  # fmt: skip
    moments = _replayed(toy, recipe)
    origin = moments[0].ticket.params if rewind_step else toy.ticket.params
    for moment in moments[1 if rewind_step else 0 : -1]:
        expected = masks.apply(origin, moment.ticket.mask)
        for got, wanted in zip(jax.tree.leaves(moment.ticket.params), jax.tree.leaves(expected), strict=True):
            np.testing.assert_array_equal(got, wanted)
        assert moment.model_state["seen"] == rewind_step
    assert moments[-1].model_state["seen"] == rewind_step + NUM_BATCHES


def test_the_state_goes_on_unless_it_is_rewound():
    toy = make_toy()
    moments = _replayed(toy, imp(toy.ticket.mask, sparsity=0.9, rounds=2, **TRAIN))
    assert [int(m.model_state["seen"]) for m in moments] == [12, 24]


def test_twenty_percent_a_round_of_resnet20():
    # Survivors after rounds 1, 5, 9, 14, 19 at exactly 20 % a round: 268,336 * 0.8^r; the schedule ends at 1.44 %.
    mask = [jax.ShapeDtypeStruct((268_336,), bool)]
    recipe = imp(mask, sparsity=0.9856, round_epochs=2, steps_per_epoch=10, learning_rate=0.1)
    assert len(recipe) == rounds_for(0.9856) == 19
    assert len({id(phase) for phase in recipe}) == 1
    ticket = Ticket(mask, mask, [jnp.ones(268_336, bool)])
    ticket = ticket._replace(params=[jnp.linspace(0.1, 1, 268_336)])
    context = Context(0, jax.random.key(0), None, None)
    kept, state = [], recipe[0].after.init(ticket)
    for _ in recipe:
        ticket, _ = recipe[0].after.update(ticket, state, context)
        kept.append(masks.num_kept(ticket.mask))
    exact = [268_336 * 0.0144 ** (r / 19) for r in range(1, 20)]
    np.testing.assert_allclose(kept, exact, atol=0.51)
    assert kept[-1] == 3864
    np.testing.assert_allclose(kept[0] / 268_336, 0.8, atol=1e-3)


def test_one_shot_is_one_round():
    mask = make_toy().ticket.mask
    assert len(lottery_ticket(mask, num_epochs=4, sparsity=0.5, **SHORT)) == 1
    assert len(lrr(mask, sparsity=0.5, rounds=1, **TRAIN)) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rewind_step": 12}, "from 0 to 11"),
        ({"rewind_step": -1}, "from 0 to 11"),
        ({"sparsity": 0.0}, "in \\(0, 1\\)"),
        ({"sparsity": 0.0, "rounds": 1}, "sparsity: expected a fraction in \\(0, 1\\), got 0.0"),
        ({"round_epochs": 0}, "round_epochs: expected 1 or more, got 0"),
        ({"decay": False, "milestones": [2]}, "milestones: expected none without decay, got"),
        ({"rate": 1.0}, "in \\(0, 1\\)"),
        ({"rate": 7.0, "rounds": 3}, "rate: expected a fraction removed in \\(0, 1\\), got 7.0"),
        ({"rewind_step": 1.5}, "an integer from 0 to 11 .*got 1.5"),
        ({"momentum": -3.0}, "momentum: expected a number in \\[0, 1\\), got -3.0"),
        ({"weight_decay": float("nan")}, "weight_decay: expected a finite number of 0 or more, got nan"),
        ({"learning_rate": float("inf")}, "search learning rate: expected a positive number, got inf"),
        ({"sparsity": 0.999}, "keeps none"),
        ({"rounds": 200}, "expected fewer"),
        ({"learning_rate": 0.0}, "positive"),
    ],
)
def test_refuses(options, message):
    mask = make_toy().ticket.mask
    with pytest.raises(ValueError, match=message):
        imp(mask, **({"sparsity": 0.9} | TRAIN | options))


@pytest.mark.parametrize("name", ["rewind_step", "rewind_batch_norm", "first_step"])
def test_learning_rate_rewinding_rewinds_no_weights(name):
    """Once the phase of k steps was taken for the round."""
    with pytest.raises(TypeError, match=name):
        lrr(make_toy().ticket.mask, sparsity=0.5, rounds=2, **{name: 1}, **TRAIN)


@pytest.mark.parametrize("option", [{"rate": 7.0}, {"decay": False}])
def test_a_lottery_ticket_of_one_round_takes_neither_rate_nor_decay(option):
    ((name, _),) = option.items()
    with pytest.raises(TypeError, match=name):
        lottery_ticket(make_toy().ticket.mask, num_epochs=4, sparsity=0.5, **SHORT, **option)
