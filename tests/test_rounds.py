"""Rounds: when they are, what they are given, the same in a step as between steps, and what is refused."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rare_gems import rounds, transforms, views
from rare_gems.phase import Phase, Rounds, Ticket, Transform
from rare_gems.training import sharding, trainer
from tests.toy import make_toy

KEY = jax.random.key(7)
IDENTITY = transforms.identity()


def noted():
    """Adds to the scores what the round is given, and a draw of its key; counts its rounds."""

    def update(ticket, state, context):
        drawn = jax.random.uniform(context.key)
        scores = jax.tree.map(lambda s: s + context.given["add"] + drawn, ticket.scores)
        return ticket._replace(scores=scores), state + 1

    return Transform(lambda ticket: jnp.int32(0), update)


def phase_of(steps, num_steps=8, add=1.0):
    own = Rounds(noted(), steps, given=lambda r: {"add": add * (r + 1)})
    return Phase(views.masked, "params", optax.sgd(0.1), IDENTITY, IDENTITY, num_steps, rounds=own)


def trained(phase, toy, **options):
    ticket, _ = trainer.run(
        (phase,), toy.ticket, toy.model_state, loss_fn=toy.loss_fn, feed=toy.feed, key=KEY, **options
    )
    return ticket


@pytest.fixture(scope="module")
def toy():
    return make_toy()


@pytest.fixture(scope="module")
def stepped(toy):
    """By whole steps, in which the rounds are a condition."""
    phase = phase_of((2, 3, 7))
    carry = trainer.begin(phase, toy.ticket, toy.model_state, jax.random.fold_in(KEY, 0))
    step, order = jax.jit(trainer.make_step(toy.loss_fn, phase)), None
    for i in range(8):
        epoch, row = divmod(i, toy.feed.num_batches)
        if row == 0:
            order = toy.feed.order(jax.random.fold_in(jax.random.fold_in(carry.key, 2**31 - 1), epoch))
        carry = step(carry, toy.feed.batch(toy.feed.data, order[row], None))
    return carry


@pytest.mark.parametrize("loop", ["python", "scan"])
def test_rounds_between_steps_are_those_in_steps(toy, stepped, loop):
    assert int(stepped.rounds) == 3
    chex.assert_trees_all_equal(trained(phase_of((2, 3, 7)), toy, loop=loop), stepped.ticket)


def test_runs_at_once_have_rounds_of_their_own(toy):
    """In others' steps, of other numbers, and as many as they like: each ends as it does alone."""
    phases = [phase_of((2, 3, 7)), phase_of(range(4, 9, 4), add=0.5), phase_of((7,), add=2.0)]
    stack = lambda *trees: jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)  # noqa: E731
    ticket, state, key = (stack(*[x] * 3) for x in (toy.ticket, toy.model_state, KEY))
    together, _ = trainer.run(
        (phases[0],), ticket, state, loss_fn=toy.loss_fn, feed=toy.feed, key=key, many=True,
        variants=[(phase,) for phase in phases],
    )  # fmt: skip
    for i, phase in enumerate(phases):
        alone = trained(phase, toy)
        chex.assert_trees_all_equal(jax.tree.map(lambda x, i=i: x[i], together.scores), alone.scores)
    with pytest.raises(ValueError, match="variants: expected rounds in all of the phases 'search' or in none of them"):
        trainer.run(
            (phases[0],), ticket, state, loss_fn=toy.loss_fn, feed=toy.feed, key=key, many=True,
            variants=[(phases[0],), (phases[1],), (phases[2]._replace(rounds=None),)],
        )  # fmt: skip


def test_one_run_of_many_and_runs_that_share_devices_have_their_rounds(toy):
    phases = [phase_of((2, 3, 7)), phase_of(range(4, 9, 4), add=0.5)]
    one = lambda tree: jax.tree.map(lambda x: x[None], tree)  # noqa: E731
    both = lambda tree: jax.tree.map(lambda x: jnp.stack([x, x]), tree)  # noqa: E731
    options = {"loss_fn": toy.loss_fn, "feed": toy.feed, "many": True}
    alone = [trained(phase, toy).scores for phase in phases]
    got, _ = trainer.run((phases[0],), one(toy.ticket), one(toy.model_state), key=KEY[None], **options)
    chex.assert_trees_all_equal(got.scores, one(alone[0]))
    mesh = sharding.make_mesh(jax.devices()[:2], runs=1)
    got, _ = trainer.run(
        (phases[0],), both(toy.ticket), both(toy.model_state), key=jnp.stack([KEY, KEY]), mesh=mesh,
        variants=[(phase,) for phase in phases], **options,
    )  # fmt: skip
    for i, scores in enumerate(alone):
        chex.assert_trees_all_close(jax.tree.map(lambda x, i=i: x[i], got.scores), scores, rtol=1e-6)


def test_each_step_is_the_phases_own_transform_without_rounds():
    phase = phase_of((1,))._replace(rounds=None)
    assert rounds.each_step(phase) is IDENTITY
    ticket = Ticket([jnp.zeros(1)], [jnp.array([0.5])], [jnp.array([True])])
    never = rounds.in_steps(Rounds(noted(), ()))
    assert never.update(ticket, never.init(ticket), None) == (ticket, 0)


@pytest.mark.parametrize(
    ("steps", "given", "match"),
    [
        ((0, 2), 1, "phase 'search': rounds: expected steps from 1 to 8, got 0 to 2"),
        (range(3, 10, 3), 1, "phase 'search': rounds: expected steps from 1 to 8, got 3 to 9"),
        ((2, 2), 1, "phase 'search': rounds: expected steps that rise, got 2 and then 2"),
        ((1, 2.5), 1, r"phase 'search': rounds: expected steps that are integers, got \[1, 2.5\]"),
        ([1, 2], 1, "phase 'search': rounds: expected steps as a range or a tuple, got list"),
        ((1,), 2**40, "given: expected integers that int32 holds, got 1099511627776"),
        ((1,), "a", "given: expected numbers, got 'a'"),
    ],
)
def test_what_is_refused(toy, steps, given, match):
    phase = phase_of((1,))._replace(rounds=Rounds(noted(), steps, given=lambda r: given))
    loops = lambda: trained(phase, toy), lambda: trainer.make_step(toy.loss_fn, phase), lambda: rounds.each_step(phase)
    for loop in loops:
        with pytest.raises(ValueError, match=match):
            loop()


def test_numbers_are_32_bits():
    got = rounds.given(Rounds(noted(), (1,), given=lambda r: {"a": 3, "b": np.float64(0.1)}), 0)
    assert (got["a"].dtype, got["b"].dtype) == (np.int32, np.float32)


def test_the_numbers_of_all_rounds_are_checked():
    counts = [100, 50, 2**40]
    late = Rounds(transforms.keep_given(), (2, 4, 5), lambda r: counts[r])
    phase = Phase(views.masked, "params", optax.sgd(0.1), transforms.identity(), transforms.identity(), 5, rounds=late)
    with pytest.raises(ValueError, match="given: expected integers that int32 holds, got 1099511627776"):
        rounds.check(phase)
