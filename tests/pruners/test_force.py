"""FORCE and iterative SNIP against stored rounds."""

import jax
import numpy as np
import pytest

from rare_gems import masks
from rare_gems.pruners.force import force
from rare_gems.pruners.snip import snip
from tests.pruners.test_snip import GOLDEN, close, cross_entropy, kernels, make_batch, make_ticket, same, searched


@pytest.mark.parametrize(("name", "revive"), [("force", True), ("iterative_snip", False)])
def test_golden(name, revive):
    ticket = make_ticket()
    shapes = jax.eval_shape(lambda: ticket.mask)
    (phase,) = force(shapes, sparsity=0.9, loss_fn=cross_entropy, rounds=4, revive=revive)
    *rounds, end = searched(phase, ticket, [make_batch(r) for r in range(4)])
    for got, want in zip(rounds, GOLDEN[name], strict=True):
        close(got.scores, want["scores"])
        same(kernels(got.mask), [np.array(q, bool) for q in want["mask"]])
    assert [masks.num_kept(t.mask) for t in rounds] == [97, 54, 31, 17]  # 172 * 0.1^(r / 4)
    assert (max(r["revived"] for r in GOLDEN[name]) > 0) == revive
    same(end.mask, rounds[-1].mask)


@pytest.mark.parametrize("invert", [False, True])
def test_one_round_is_snip(invert):
    ticket = make_ticket()
    options = {"sparsity": 0.9, "loss_fn": cross_entropy, "invert": invert}
    ends = [searched(p, ticket, [make_batch(0)])[-1]
            for (p,) in (force(ticket.mask, rounds=1, **options), snip(ticket.mask, **options))]  # fmt: skip
    same(ends[0], ends[1])


def test_many_rounds_keep_the_count():
    (phase,) = force(make_ticket().mask, sparsity=0.95, loss_fn=cross_entropy)
    assert phase.num_steps == 60
    *rounds, end = searched(phase, make_ticket(), [make_batch(r) for r in range(4)])
    counts = [masks.num_kept(t.mask) for t in rounds]
    assert counts == sorted(counts, reverse=True)
    masks.check(end.mask, 172 - 163)  # 163.4 removed


def test_errors():
    with pytest.raises(ValueError, match=r"rounds: expected 1 or more, got 0"):
        force(make_ticket().mask, sparsity=0.9, loss_fn=cross_entropy, rounds=0)
    with pytest.raises(ValueError, match=r"0.999 keeps none of 172 weights"):
        force(make_ticket().mask, sparsity=0.999, loss_fn=cross_entropy)
