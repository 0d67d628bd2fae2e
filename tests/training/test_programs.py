"""Programs that later calls share, and that are gone with their runs."""

import gc

import jax
import numpy as np
import optax

from rare_gems import transforms, views
from rare_gems.phase import Phase
from rare_gems.training import trainer
from tests.toy import make_toy


def _phase(traced):
    def view(ticket, step, key):
        traced.append(1)
        return views.masked(ticket, step, key)

    nothing = transforms.identity()
    return Phase(view=view, trains="params", optimizer=optax.sgd(0.1), during=nothing, after=nothing, num_steps=3)


def test_equal_calls_trace_once_and_train_as_alone():
    toy, traced, kept = make_toy(), [], {}
    phase = _phase(traced)

    def trained(seed, **options):
        given = {"loss_fn": toy.loss_fn, "feed": toy.feed, "key": jax.random.key(seed)}
        return jax.tree.map(np.asarray, trainer.run((phase,), toy.ticket, toy.model_state, **given, **options)[0])

    alone = [trained(seed) for seed in (0, 1)]
    num = len(traced)
    first = trained(0, programs=kept)
    assert len(traced) > num
    num = len(traced)
    second = trained(1, programs=kept)
    assert len(traced) == num  # nothing was traced again
    for got, expected in zip((first, second), alone, strict=True):
        jax.tree.map(np.testing.assert_array_equal, got, expected)
    assert len(kept) == 1


def test_programs_that_nobody_keeps_are_freed():
    toy = make_toy()

    def alive():
        gc.collect()
        return len(jax.devices()[0].client.live_executables())

    def train():
        given = {"loss_fn": toy.loss_fn, "feed": toy.feed, "key": jax.random.key(0)}
        trainer.run((_phase([]),), toy.ticket, toy.model_state, **given)

    train()
    before = alive()
    for _ in range(2):
        train()
    assert alive() == before
