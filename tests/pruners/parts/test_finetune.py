"""The last phase: SGD in torch's order against NumPy float64, its schedule, its errors."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rare_gems import views
from rare_gems.phase import Context, Ticket
from rare_gems.pruners.parts.finetune import dense, finetune, sgd
from rare_gems.training import trainer


def descend(momentum, weight_decay, rates, w, grad):
    """u = g + decay w;  v = momentum v + u;  w = w - rate v."""
    v = np.zeros_like(w)
    for rate in rates:
        v = momentum * v + grad(w) + weight_decay * w
        w = w - rate * v
    return w


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_sgd(momentum, weight_decay):
    start, target = np.array([1.0, -2.0, 0.5]), np.array([0.3, 0.7, -0.2])
    optimizer = sgd(lambda count: jnp.float32(0.1) / (1 + count.astype(jnp.float32)), momentum, weight_decay)
    w = jnp.float32(start)
    state = optimizer.init(w)
    for _ in range(6):
        updates, state = optimizer.update(3 * (w - jnp.float32(target)), state, w)
        w = optax.apply_updates(w, updates)
    rates = [0.1 / (1 + step) for step in range(6)]
    want = descend(momentum, weight_decay, rates, start, lambda w: 3 * (w - target))
    np.testing.assert_allclose(w, want, rtol=1e-5)


def test_phase():
    phase = finetune(num_epochs=150, steps_per_epoch=7, learning_rate=0.01)
    assert (phase.view, phase.trains, phase.num_steps, phase.hold_dead) == (
        views.masked,
        "params",
        1050,
        True,
    )
    assert phase.name == "finetune"
    assert finetune(num_epochs=1, steps_per_epoch=1, learning_rate=0.01, name="dense").name == "dense"
    ticket = Ticket([jnp.ones(2)], [jnp.zeros(2)], [jnp.array([True, False])])
    for part in (phase.during, phase.after):
        out, _ = part.update(ticket, part.init(ticket), Context(jnp.int32(0), jax.random.key(0), None, None))
        assert jax.tree.all(jax.tree.map(jnp.array_equal, out, ticket))
    assert dense(phase) == (phase,)


@pytest.mark.parametrize(("milestones", "falls"), [(None, (3, 4)), ((1, 5), (1, 5)), ((), ())])
def test_training_by_hand(milestones, falls):
    """Six epochs of two steps on a quadratic: the dead weight stays zero, the bias decays and trains too."""
    phase = finetune(
        num_epochs=6,
        steps_per_epoch=2,
        learning_rate=0.05,
        milestones=milestones,
        momentum=0.9,
        weight_decay=0.02,
    )
    start, target = np.array([1.0, -2.0, 0.5]), np.array([0.3, 0.7, -0.2])
    mask = jnp.array([True, False, True])
    ticket = Ticket(
        {"w": jnp.float32(start), "bias": jnp.float32(start)},
        {"w": jnp.zeros(3), "bias": None},
        {"w": mask, "bias": None},
    )

    def loss_fn(params, state, batch, key):
        loss = 1.5 * sum(jnp.sum((w - batch) ** 2) for w in params.values())
        return loss, (state, jnp.float32(0))

    carry = trainer.begin(phase, ticket, None, jax.random.key(0))
    step = jax.jit(trainer.make_step(loss_fn, phase))
    for _ in range(phase.num_steps):
        carry = step(carry, jnp.float32(target))
    rates = [0.05 * 0.1 ** sum(step // 2 >= fall for fall in falls) for step in range(12)]
    want = descend(0.9, 0.02, rates, start, lambda w: 3 * (w - target))
    np.testing.assert_allclose(carry.ticket.params["bias"], want, rtol=1e-4)
    np.testing.assert_allclose(carry.ticket.params["w"], want * np.array([1, 0, 1]), rtol=1e-4)
    assert carry.ticket.params["w"][1] == 0
    assert jnp.array_equal(carry.ticket.mask["w"], mask)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"num_epochs": 0}, r"expected 1 or more, got 0 and 3"),
        ({"steps_per_epoch": 0}, r"expected 1 or more, got 2 and 0"),
        ({"learning_rate": 0.0}, r"finetune learning rate: expected a positive number, got 0"),
        ({"learning_rate": float("nan")}, r"expected a positive number"),
        (
            {"learning_rate": -1.0, "name": "dense"},
            r"dense learning rate: expected a positive number, got -1",
        ),
    ],
)
def test_errors(changes, match):
    with pytest.raises(ValueError, match=match):
        finetune(**{"num_epochs": 2, "steps_per_epoch": 3, "learning_rate": 0.1, **changes})


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"momentum": 2.0}, r"momentum: expected a number in \[0, 1\), got 2.0"),
        ({"weight_decay": -1.0}, "weight_decay: expected a finite number of 0 or more, got -1.0"),
        ({"learning_rate": float("inf")}, "finetune learning rate: expected a positive number, got inf"),
        ({"num_epochs": 2.5}, "num_epochs: expected an integer of 0 or more, got 2.5"),
    ],
)
def test_numbers_out_of_range(option, message):
    with pytest.raises(ValueError, match=message):
        finetune(**{"num_epochs": 2, "steps_per_epoch": 3, "learning_rate": 0.1} | option)
