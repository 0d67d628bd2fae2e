"""How weights descend: every optimizer and schedule against NumPy in float64, numbers in the state, what is refused."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rare_gems.phase import Ticket
from rare_gems.pruners.parts.descent import Descent, check, optimizer, rate_at, rates_of
from rare_gems.pruners.parts.finetune import finetune
from rare_gems.training import same_program, trainer

LENGTH = {"num_epochs": 6, "steps_per_epoch": 4}
NUM_STEPS = 24


def rates(how, learning_rate=0.4):
    rate = jax.jit(jax.vmap(rate_at(how, jnp.asarray(rates_of(how, learning_rate, 6)), **LENGTH)))
    return np.asarray(rate(jnp.arange(NUM_STEPS)))


T = np.arange(NUM_STEPS)
SCHEDULES = {
    "constant": (Descent(schedule="constant"), np.full(NUM_STEPS, 0.4)),
    "multistep by the length": (Descent(), 0.4 * 0.1 ** ((T >= 12) * 1 + (T >= 16) * 1)),
    "own epochs": (Descent(milestones=(1, 5), decay_factor=0.5), 0.4 * 0.5 ** ((T >= 4) * 1 + (T >= 20) * 1)),
    "own steps": (Descent(milestone_steps=(3, 7)), 0.4 * 0.1 ** ((T >= 3) * 1 + (T >= 7) * 1)),
    "cosine": (Descent(schedule="cosine", end_rate=0.1), 0.1 + 0.3 * (1 + np.cos(np.pi * (T // 4) / 6)) / 2),
    "linear": (Descent(schedule="linear", end_rate=0.1), 0.4 - 0.3 * T / 24),
    "exponential": (Descent(schedule="exponential", end_rate=0.004), 0.4 * 0.01 ** (T / 24)),
    "constant, warm-up": (Descent(schedule="constant", warmup_steps=5), 0.4 * np.minimum(T / 5, 1)),
    "multistep, warm-up": (
        Descent(milestones=(1,), warmup_epochs=2), 0.4 * 0.1 ** (T >= 4) * np.minimum(T / 8, 1)
    ),
    "linear, warm-up": (
        Descent(schedule="linear", warmup_epochs=1), 0.4 * np.minimum(T / 4, 1) * (1 - np.maximum(T - 4, 0) / 20)
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SCHEDULES)
def test_rates(name):
    how, want = SCHEDULES[name]
    np.testing.assert_allclose(rates(how), want, rtol=1e-5, atol=1e-8)


def _adam(g, w, s, *, decay, epsilon):
    g = g + (0 if decay else 0.02 * w)
    s["m"], s["v"], s["t"] = 0.9 * s["m"] + 0.1 * g, 0.999 * s["v"] + 0.001 * g**2, s["t"] + 1
    ratio = s["m"] / (1 - 0.9 ** s["t"]) / (np.sqrt(s["v"] / (1 - 0.999 ** s["t"])) + epsilon)
    return ratio + (0.02 * w if decay else 0)


def _rmsprop(g, w, s, *, epsilon):
    g = g + 0.02 * w
    s["v"] = 0.9 * s["v"] + 0.1 * g**2
    s["m"] = 0.8 * s["m"] + g / np.sqrt(s["v"] + epsilon)  # at a constant rate it does not matter where that stands
    return s["m"]


def _nesterov(g, w, s):
    g = g + 0.02 * w
    s["m"] = 0.8 * s["m"] + g
    return g + 0.8 * s["m"]


OPTIMIZERS = {
    "nesterov": (Descent("nesterov"), _nesterov),
    "adam": (Descent("adam"), functools.partial(_adam, decay=False, epsilon=1e-8)),
    "adamw": (Descent("adamw", epsilon=0.1), functools.partial(_adam, decay=True, epsilon=0.1)),
    "rmsprop": (Descent("rmsprop", epsilon=1.0), functools.partial(_rmsprop, epsilon=1.0)),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers(name):
    how, law = OPTIMIZERS[name]
    w, target = np.array([1.0, -2.0, 0.5]), np.array([0.3, 0.7, -0.2])
    tx, slots = optimizer(how, 0.05, 0.8, jnp.float32(0.02)), {"m": 0.0, "v": 0.0, "t": 0}
    ours = jnp.float32(w)
    with jax.numpy_dtype_promotion("standard"):
        state = tx.init(ours)
        for _ in range(5):
            updates, state = tx.update(3 * (ours - jnp.float32(target)), state, ours)
            ours = optax.apply_updates(ours, updates)
            w = w - 0.05 * law(3 * (w - target), w, slots)
    np.testing.assert_allclose(ours, w, rtol=2e-5)


def test_kernels_alone_may_decay():
    params = {"conv": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}, "bn1": {"scale": jnp.ones(2)}}
    still = jax.tree.map(jnp.zeros_like, params)
    for of, moved in (("all", 3), ("kernels", 1)):
        tx = optimizer(Descent(weight_decay_of=of), 1.0, 0.0, jnp.float32(0.5))
        updates, _ = tx.update(still, tx.init(params), params)
        assert sum(bool((leaf == -0.5).all()) for leaf in jax.tree.leaves(updates)) == moved
    assert (updates["conv"]["kernel"] == -0.5).all()


HOW = {
    "adam, cosine": Descent("adam", schedule="cosine", warmup_epochs=1),
    "rmsprop, exponential": Descent("rmsprop", epsilon=1.0, schedule="exponential", end_rate=1e-3),
    "adamw, steps": Descent("adamw", milestone_steps=(2, 5), weight_decay_of="kernels"),
}


@pytest.mark.parametrize("name", HOW)
def test_numbers_live_in_the_state_and_dead_weights_stay(name):
    how, mask = HOW[name], jnp.array([[True, False], [True, True]])
    ticket = Ticket({"kernel": jnp.ones((2, 2))}, {"kernel": jnp.zeros((2, 2))}, {"kernel": mask})
    one, other = (
        finetune(**LENGTH, learning_rate=rate, weight_decay=decay, descent=how._replace(end_rate=end), first_step=8)
        for rate, decay, end in ((0.1, 0.01, how.end_rate), (0.3, 0.0, how.end_rate and 2 * how.end_rate))
    )
    assert one.num_steps == 16
    programs = {same_program.program(phase, ticket, None, jnp.float32(0)) for phase in (one, other)}
    assert len(programs) == 1

    def loss_fn(params, state, batch, key):
        return jnp.sum((params["kernel"] - batch) ** 2), (state, jnp.float32(0))

    carry = trainer.begin(other, ticket, None, jax.random.key(0))
    step = jax.jit(trainer.make_step(loss_fn, one))  # the functions of any one train them all
    for _ in range(3):
        carry = step(carry, jnp.float32(2))
    assert carry.ticket.params["kernel"][0, 1] == 0
    slots = [leaf for leaf in jax.tree.leaves(carry.opt_state) if leaf.shape == (2, 2)]
    assert slots
    assert all(slot[0, 1] == 0 for slot in slots)
    assert (carry.ticket.params["kernel"][mask] != 1).all()


REFUSED = {
    "milestones: expected ascending epochs from 1 to 5, got 4,2": {"milestones": (4, 2)},
    "milestones: expected ascending epochs from 1 to 5, got 6": {"milestones": (6,)},
    "milestones: expected ascending epochs from 1 to 5, got 2,2": {"milestones": (2, 2)},
    "milestone_steps: expected ascending steps from 1 to 23, got 0": {"milestone_steps": (0,)},
    "milestone_steps: expected milestones in epochs or": {"milestones": (1,), "milestone_steps": (9,)},
    "milestones: not used by a cosine rate; expected one that is multistep": {
        "schedule": "cosine", "milestones": (1,)
    },
    "end_rate: not used by a multistep rate": {"end_rate": 0.01},
    "end_rate: expected a positive number for the exponential": {"schedule": "exponential"},
    "end_rate: expected a number above 0": {"schedule": "exponential", "end_rate": 0.0},
    "end_rate: expected a number from 0 to the learning rate 0.1, got 0.2": {"schedule": "linear", "end_rate": 0.2},
    r"decay_factor: expected a number in \(0, 1\]": {"decay_factor": 0.0},
    "warmup_epochs: expected from 0 to 5 of 6 epochs of training, got 6": {"warmup_epochs": 6},
    "warmup_steps: expected from 0 to 23": {"warmup_steps": -1},
    "warmup_steps: expected a warm-up in epochs or": {"warmup_epochs": 1, "warmup_steps": 1},
    "epsilon: not used by sgd": {"epsilon": 1.0},
    "epsilon: expected a positive number": {"optimizer": "adam", "epsilon": 0.0},
    "optimizer: expected one of sgd, .* got 'lion'": {"optimizer": "lion"},
}  # fmt: skip


@pytest.mark.parametrize("message", REFUSED)
def test_refuses(message):
    with pytest.raises(ValueError, match=message):
        check(Descent(**REFUSED[message]), **LENGTH, learning_rate=0.1, momentum=0.9)


def test_what_goes_with_a_training_is_refused_there():
    with pytest.raises(ValueError, match="optimizer: expected a momentum above 0 with nesterov, got 0"):
        finetune(**LENGTH, learning_rate=0.1, momentum=0.0, descent=Descent("nesterov"))
    with pytest.raises(ValueError, match="finetune first step: expected from 0 to 23 of 24, got 24"):
        finetune(**LENGTH, learning_rate=0.1, first_step=24)


def test_milestones_of_none_hold_the_rate_of_any_schedule():
    how = Descent(schedule="exponential", end_rate=1e-3, warmup_steps=2)
    phase = finetune(**LENGTH, learning_rate=0.5, momentum=0.0, weight_decay=0.0, milestones=(), descent=how)
    w = [jnp.zeros(())]
    state, moved = phase.optimizer.init(w), []
    for _ in range(4):
        (update,), state = phase.optimizer.update([jnp.ones(())], state, w)
        moved.append(-float(update))
    assert moved == [0.0, 0.25, 0.5, 0.5]
