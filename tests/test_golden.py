"""The search replayed against a stored run of an independent float64 implementation (golden/make_gem_miner.py)."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rare_gems import masks
from rare_gems.phase import Ticket
from rare_gems.pruners.gem_miner import gem_miner
from rare_gems.training import trainer
from tests.golden import make_gem_miner as made

GOLDEN = json.loads((Path(__file__).parent / "golden" / "gem_miner.json").read_text())
STEPS = len(GOLDEN["images"])


def _arrays(nested, dtype):
    return [jnp.array(part, dtype) for part in nested]


def loss_fn(params, state, batch, key):
    del key
    images, labels = batch
    logits = jax.nn.relu(images @ params[0]) @ params[1]
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), (state, jnp.float32(0))


@pytest.mark.parametrize("halves", [False, True])
def test_gem_miner(halves):
    weights, scores = (_arrays(GOLDEN["start"][name], jnp.float32) for name in ("weights", "scores"))
    ticket = Ticket(weights, scores, masks.ones(weights))
    (phase,) = gem_miner(
        ticket.mask, sparsity=0.8, num_epochs=7, steps_per_epoch=STEPS, period=2, learning_rate=0.5, l2=1e-2
    )
    step = jax.jit(trainer.make_step(loss_fn, phase))
    if halves:
        descend, edit = map(jax.jit, trainer.step_parts(loss_fn, phase))
        take = jax.jit(trainer.take_round, static_argnums=0)

        def step(carry, batch):
            carry, at = edit(*descend(carry, batch)), phase.rounds.steps
            if int(carry.step) not in at:
                return carry
            return take(phase, carry, phase.rounds.given(at.index(int(carry.step))))

    carry = trainer.begin(phase, ticket, {}, jax.random.key(0))
    kept = []
    for expected in GOLDEN["epochs"]:
        for i in range(STEPS):
            batch = jnp.array(GOLDEN["images"][i], jnp.float32), jnp.array(GOLDEN["labels"][i], jnp.int32)
            carry = step(carry, batch)
        for got, wanted in zip(carry.ticket.scores, expected["scores"], strict=True):
            np.testing.assert_allclose(got, wanted, atol=1e-5)
        for got, wanted in zip(carry.ticket.mask, expected["mask"], strict=True):
            np.testing.assert_array_equal(got, wanted)
        kept.append(masks.num_kept(carry.ticket.mask))
    assert kept == [100, 100, 58, 58, 34, 34, 20]  # 100 * 0.2^(r / 3) after epochs 2, 4 and 6, counted from 0
    for got, wanted in zip(carry.ticket.params, weights, strict=True):
        np.testing.assert_array_equal(got, wanted)  # the search never moves a weight


def test_the_stored_run_is_what_its_maker_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(made, "__file__", str(tmp_path / "make_gem_miner.py"))
    made.main()
    again = json.loads((tmp_path / "gem_miner.json").read_text())
    assert again["start"] == GOLDEN["start"]
    for new, old in zip(again["epochs"], GOLDEN["epochs"], strict=True):
        assert new["mask"] == old["mask"]
        for a, b in zip(new["scores"], old["scores"], strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12)
