"""rare_gems.training.hyperparams: runs that differ in numbers share a program, and each does what it does alone."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rare_gems import rounds, schedules, transforms, views
from rare_gems.phase import Context, Phase, Ticket, Transform
from rare_gems.pruners.continuous_sparsification import continuous_sparsification
from rare_gems.pruners.deep_r import deep_r
from rare_gems.pruners.dsr import dsr
from rare_gems.pruners.edge_popup import edge_popup
from rare_gems.pruners.force import force
from rare_gems.pruners.gem_miner import gem_miner
from rare_gems.pruners.gem_miner_auto import gem_miner_auto
from rare_gems.pruners.gmp import gmp
from rare_gems.pruners.hybrid import hybrid
from rare_gems.pruners.imp import imp
from rare_gems.pruners.jackpot import jackpot
from rare_gems.pruners.magnitude import magnitude
from rare_gems.pruners.obd import obd
from rare_gems.pruners.parts.finetune import dense, finetune, sgd
from rare_gems.pruners.prospr import prospr
from rare_gems.pruners.random_mask import random
from rare_gems.pruners.rigl import rigl
from rare_gems.pruners.smart_ratio import smart_ratio
from rare_gems.pruners.snfs import snfs
from rare_gems.pruners.snip import snip
from rare_gems.pruners.sparse_evolutionary_training import sparse_evolutionary_training
from rare_gems.pruners.supermask import supermask
from rare_gems.training import hyperparams, same_program, trainer
from tests.toy import NUM_BATCHES, ORDER, make_toy

TOY = make_toy()
MASK = jax.eval_shape(lambda: TOY.ticket.mask)
ABSTRACT = jax.eval_shape(lambda: (TOY.ticket, TOY.model_state, TOY.feed.data[:4]))
EPOCHS = {"num_epochs": 3, "steps_per_epoch": NUM_BATCHES}
TUNE = {"num_epochs": 1, "steps_per_epoch": NUM_BATCHES}
ROUNDS = {"round_epochs": 1, "steps_per_epoch": NUM_BATCHES, "rounds": 2}
KEYS = jax.random.split(jax.random.key(5), 2)
LOSS = TOY.loss_fn
FINETUNES = {"finetune": [finetune(learning_rate=0.1, **TUNE), finetune(learning_rate=0.3, weight_decay=0.0, **TUNE)]}
RATES = {"learning_rate": [0.1, 0.4]}
SPARSITIES = {"sparsity": [0.8, 0.5]}
DECAYS = {"weight_decay": [1e-3, 0.0]}


def finetune_alone(mask, **options):
    return dense(finetune(**options))


# name: (method, what all runs share, what each has of its own)
SWEEPS = {
    "gem_miner": (gem_miner, EPOCHS | {"period": 1}, SPARSITIES | RATES | {"l2": [1e-2, 0.0]}),
    "random": (random, {"scope": "layer"}, SPARSITIES),
    "imp": (imp, ROUNDS, SPARSITIES | RATES | DECAYS),
    "snip": (snip, {"loss_fn": LOSS, "batches": 2}, SPARSITIES),
    "gmp": (gmp, EPOCHS | {"every": 2}, SPARSITIES | RATES | DECAYS | {"initial_sparsity": [0.3, 0.2]}),
    "dense": (finetune_alone, TUNE, RATES | DECAYS),
}
MORE_SWEEPS = {
    "gem_miner_layer": (gem_miner, EPOCHS | {"period": 1, "scope": "layer", "norm": "l1"}, SPARSITIES | RATES),
    "gem_miner_periods": (gem_miner, {"sparsity": 0.8, "steps_per_epoch": 3, "num_epochs": 4}, {"period": [1, 2]}),
    "gem_miner_auto": (gem_miner_auto, EPOCHS, SPARSITIES),
    "force": (force, {"loss_fn": LOSS, "rounds": 3}, SPARSITIES),
    "hybrid": (hybrid, {"linear": None, "order": ORDER}, SPARSITIES | FINETUNES | {"training": FINETUNES["finetune"]}),
    "smart_ratio": (smart_ratio, {"linear": None, "order": ORDER}, SPARSITIES),
    "smart_ratio_v5": (
        smart_ratio, TUNE | {"version": "v5", "ratios": (0.4, 0.1), "order": ORDER}, SPARSITIES | RATES
    ),
    "rigl": (rigl, EPOCHS | {"every": 2}, SPARSITIES | RATES | DECAYS | {"drop_fraction": [0.3, 0.5]}),
    "set": (sparse_evolutionary_training, EPOCHS, SPARSITIES | RATES | {"drop_fraction": [0.3, 0.5]}),
    "snfs": (snfs, EPOCHS | {"every": 2}, SPARSITIES | RATES | {"drop_fraction": [0.3, 0.5], "smoothing": [0.9, 0]}),
    "dsr": (
        dsr, EPOCHS | {"every": 2}, SPARSITIES | {"moved": [0.1, 0.2], "threshold": [0.1, 1], "tolerance": [0.1, 0.2]}
    ),
    "deep_r": (
        deep_r, EPOCHS, SPARSITIES | RATES | {"l1": [1e-5, 0], "temperature": [1e-8, 0.0], "cooling": [4.0, 0.0]}
    ),
    "obd": (obd, EPOCHS | {"objective": LOSS, "batches": 2, "curvature": "hutchinson"}, SPARSITIES | RATES | DECAYS),
    "jackpot of the text": (jackpot, EPOCHS | {"start": "uniform", "budgets": "layer"}, SPARSITIES | RATES),
    "edge_popup": (edge_popup, EPOCHS | {"sparsity": 0.8}, RATES | DECAYS | {"l2": [1e-3, 0.0]}),
    "jackpot": (jackpot, EPOCHS, SPARSITIES | RATES | DECAYS | {"dropped": [0.99, 0]}),
    "supermask": (supermask, EPOCHS, SPARSITIES | RATES | DECAYS | {"initial_score": [0, 0.5]}),
    "continuous_sparsification": (
        continuous_sparsification, EPOCHS, SPARSITIES | RATES | {"penalty": [0.0, 1e-4], "initial_score": [0.0, 1]}
    ),
}  # fmt: skip


def members(method, shared, own):
    return [method(MASK, **shared, **{name: values[i] for name, values in own.items()}) for i in range(2)]


def digest(phase):
    return same_program.program(phase, *ABSTRACT)


def digests(recipe):
    return [digest(phase) for phase in recipe]


def same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize("name", list(SWEEPS))
def test_a_sweep_in_one_program_gives_each_run_its_own_ticket(name):
    """By hand: every run begins its own phase, and the functions of the first train them all."""
    recipes = members(*SWEEPS[name])
    feed = TOY.feed._replace(order=lambda key: jnp.arange(12, dtype=jnp.int32).reshape(NUM_BATCHES, 4))
    axes = trainer.Carry(None, *[0] * (len(trainer.Carry._fields) - 1))
    tickets, states = [TOY.ticket] * 2, [TOY.model_state] * 2
    for index, phases in enumerate(zip(*recipes, strict=True)):
        assert digest(phases[0]) == digest(phases[1])
        carries = [
            trainer.begin(phase, ticket, state, jax.random.fold_in(key, index))
            for phase, ticket, state, key in zip(phases, tickets, states, KEYS, strict=True)
        ]
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(carry[1:] for carry in carries))
        carry = trainer.Carry(carries[0].step, *stacked)
        descend, edit = trainer.step_parts(LOSS, phases[0])
        one = lambda c, b, descend=descend, edit=edit: edit(*descend(c, b)) if edit else descend(c, b)[0]  # noqa: E731
        step = jax.jit(jax.vmap(one, in_axes=(axes, None), out_axes=axes))
        one = functools.partial(trainer.take_round, phases[0])
        take = jax.jit(jax.vmap(one, in_axes=(axes, 0), out_axes=axes))
        at = () if phases[0].rounds is None else phases[0].rounds.steps
        for i in range(phases[0].num_steps):
            carry = step(carry, TOY.feed.data[i % NUM_BATCHES * 4 :][:4])
            if i + 1 in at:  # whose numbers the host gives, to each run its own
                rows = [rounds.given(phase.rounds, at.index(i + 1)) for phase in phases]
                carry = take(carry, jax.tree.map(lambda *numbers: np.stack(numbers), *rows))
        end = jax.jit(jax.vmap(lambda carry, phase=phases[0]: trainer.finish(phase, carry), in_axes=(axes,)))(carry)
        tickets, states = ([jax.tree.map(lambda x, i=i: x[i], tree) for i in range(2)] for tree in (end, carry[3]))
    # The second run is the one that was trained by another's functions.
    alone, _ = trainer.run(recipes[1], TOY.ticket, TOY.model_state, loss_fn=LOSS, feed=feed, key=KEYS[1])
    same(tickets[1].mask, alone.mask)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), tickets[1].params, alone.params)
    one, other = (sum(int(m.sum()) for m in jax.tree.leaves(ticket.mask)) for ticket in tickets)
    assert (one, other) == ((176, 176) if name == "dense" else (35, 88))
    if name == "dense":
        assert float(jnp.abs(tickets[0].params["first"]["kernel"] - tickets[1].params["first"]["kernel"]).max()) > 1e-4


@pytest.mark.parametrize("name", list(MORE_SWEEPS))
def test_numbers_in_the_state_leave_the_program_alone(name):
    one, other = members(*MORE_SWEEPS[name])
    assert digests(one) == digests(other)


def phase_of(**options):
    plain = {"view": views.masked, "trains": "params", "optimizer": optax.sgd(0.1), "during": transforms.identity(),
             "after": transforms.identity(), "num_steps": 3}  # fmt: skip
    return Phase(**plain | options)


def added(amount):
    return transforms.scores_from(lambda t, _: jax.tree.map(lambda s: s + amount, t.scores))


def noisy(seed):
    key = jax.random.key(seed)
    return transforms.scores_from(lambda t, _: jax.tree.map(lambda s: jax.random.uniform(key, s.shape), t.scores))


def scaled(factor):
    return lambda ticket, step, key: jax.tree.map(lambda w: w * factor, ticket.params)


def steeper(factor):
    """The same view for every factor, but not its gradient."""
    through = jax.custom_vjp(lambda w: w)
    through.defvjp(lambda w: (w, None), lambda _, grad: (factor * grad,))
    return lambda ticket, step, key: jax.tree.map(through, ticket.params)


def weighted(factor):
    def loss(params, state, batch, key):
        value, aux = LOSS(params, state, batch, key)
        return factor * value, aux

    return loss


@pytest.mark.parametrize(
    ("make", "numbers"),
    [
        (lambda x: phase_of(optimizer=optax.sgd(x)), (0.1, 0.2)),
        (lambda x: phase_of(optimizer=optax.sgd(x)), (0.1, np.nextafter(np.float32(0.1), 1))),
        (lambda x: phase_of(optimizer=optax.trace(x)), (0.8, 0.9)),
        (lambda x: phase_of(during=added(x)), (0.5, 0.25)),
        (lambda x: phase_of(during=added(np.full((1, 1), x, np.float32))), (0.5, 0.25)),
        (lambda x: phase_of(after=noisy(x)), (0, 1)),
        (lambda x: phase_of(during=transforms.when(schedules.every(x), added(1.0))), (2, 3)),
        (lambda x: phase_of(during=transforms.keep_top(lambda step: x - step)), (30, 40)),
        (lambda x: phase_of(during=transforms.keep_next((30, 20, 10)[:x])), (2, 3)),
        (lambda x: phase_of(view=scaled(x)), (1.0, 2.0)),
        (lambda x: phase_of(view=steeper(x)), (1.0, 2.0)),
        (lambda x: phase_of(loss_fn=weighted(x)), (1.0, 2.0)),
        (lambda x: phase_of(num_steps=x), (3, 4)),
        (lambda x: phase_of(hold_dead=x), (True, False)),
        (lambda x: phase_of(rewind_state=x), (True, False)),
        (lambda x: phase_of(name=x), ("search", "finetune")),
        (lambda x: phase_of(trains=x), ("params", "scores")),
    ],
)
def test_what_is_not_in_the_state_makes_another_program(make, numbers):
    one, again, other = (digest(make(x)) for x in (numbers[0], *numbers))
    assert one == again != other


@pytest.mark.parametrize(
    ("method", "shared", "own"),
    [
        (finetune_alone, {"steps_per_epoch": 3, "learning_rate": 0.1}, {"num_epochs": [4, 5]}),
        (finetune_alone, TUNE | {"learning_rate": 0.1}, {"momentum": [0.9, 0.8]}),
        (magnitude, {"sparsity": 0.8}, {"scope": ["layer", "global"]}),
        (gem_miner, {"sparsity": 0.8, "period": 2} | EPOCHS, {"momentum": [0.9, 0.0]}),
        (gem_miner, {"sparsity": 0.8, "period": 2} | EPOCHS, {"norm": ["l1", "l2"]}),
        (gem_miner, {"sparsity": 0.8, "period": 2} | EPOCHS, {"optimizer": ["sgd", "adam"]}),
        (imp, ROUNDS | {"sparsity": 0.8, "learning_rate": 0.1, "round_epochs": 2}, {"milestones": [(), (1,)]}),
        (magnitude, {"sparsity": 0.8}, {"invert": [False, True]}),
        (snip, {"sparsity": 0.8}, {"loss_fn": [weighted(1.0), weighted(2.0)]}),
        # what views and losses read
        (edge_popup, EPOCHS, SPARSITIES),
        (continuous_sparsification, EPOCHS | {"sparsity": 0.8}, {"final_temperature": [200.0, 100.0]}),
        (prospr, {"sparsity": 0.8, "loss_fn": LOSS}, {"inner_learning_rate": [0.1, 0.2]}),
        (smart_ratio, TUNE | {"version": "v4", "ratios": (0.4, 0.1), "order": ORDER}, SPARSITIES),
    ],
)
def test_choices_make_another_program(method, shared, own):
    one, other = members(method, shared, own)
    assert digests(one) != digests(other)


def test_arrays_and_their_shapes_give_one_digest():
    phase = phase_of()
    assert same_program.program(phase, TOY.ticket, TOY.model_state, TOY.feed.data[:4]) == digest(phase)


def test_optimizer_computes_what_it_wraps():
    make = lambda **numbers: sgd(numbers["learning_rate"], 0.9, numbers["weight_decay"])  # noqa: E731
    params, grads = {"w": jnp.array([0.3, -2.0])}, {"w": jnp.array([0.7, 0.1])}
    plain = make(learning_rate=0.13, weight_decay=1e-3)
    held = hyperparams.optimizer(make, learning_rate=0.13, weight_decay=1e-3)
    states = plain.init(params), held.init(params)
    for _ in range(3):
        (want, first), (got, second) = plain.update(grads, states[0], params), held.update(grads, states[1], params)
        same(got, want)
        states = first, second
    marked = optax.tree.map_params(held, lambda _: 1.0, states[1], transform_non_params=lambda _: 0.0)
    assert jax.tree.leaves(marked) == [0.0, 0.0, 1.0]  # learning rate, weight decay, momentum
    kinds = [(x.dtype, x.weak_type) for x in jax.tree.leaves(states[1])]
    assert kinds == [(jnp.float32, False)] * 3


def test_finetune_keeps_its_rates_to_the_bit():
    phase = finetune(num_epochs=3, steps_per_epoch=2, learning_rate=0.07, milestones=(1, 2), momentum=0, weight_decay=0)
    schedule = schedules.multi_step(0.07, (1, 2), 2)
    one = jnp.float32([1.0])
    state = phase.optimizer.init(one)
    for step in range(6):
        update, state = phase.optimizer.update(one, state, one)
        assert update[0] == -schedule(jnp.int32(step)) == -np.float32(0.07 * 0.1 ** (step // 2))


def test_transform_keeps_integers_and_floats():
    def make(count, tree):
        return Transform(
            lambda ticket: (), lambda t, s, _: (t._replace(scores=[count.astype(jnp.float32) * tree["x"][1]]), s)
        )

    ticket = Ticket([jnp.zeros(1)], [jnp.zeros(1)], [jnp.ones(1, bool)])
    part = hyperparams.transform(make, count=3, tree={"x": [0.5, 0.25], "none": None})
    state = part.init(ticket)
    assert [x.dtype for x in jax.tree.leaves(state)] == [jnp.int32, jnp.float32, jnp.float32]
    out, after = part.update(ticket, state, Context(jnp.int32(0), KEYS[0], None, None))
    assert out.scores == [0.75]
    same(after, state)
    for wrong in (True, "3", [None, "x"]):
        with pytest.raises(ValueError, match=r"count: expected numbers, got"):
            hyperparams.transform(make, count=wrong)
