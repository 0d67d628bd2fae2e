"""Magnitude pruning at initialization, on weights ranked by hand and on the stored network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rare_gems.pruners.magnitude import magnitude
from rare_gems.pruners.parts.finetune import finetune
from tests.pruners.test_snip import COUNT, GOLDEN, close, kernels, make_ticket, same, searched, top


@pytest.mark.parametrize("invert", [False, True])
def test_golden(invert):
    ticket = make_ticket()
    (phase,) = magnitude(jax.eval_shape(lambda: ticket.mask), sparsity=0.9, invert=invert)
    (end,) = searched(phase, ticket, [])
    close(end.scores, GOLDEN["magnitude"], rtol=1e-6)
    same(kernels(end.mask), top([np.array(s) * (-1 if invert else 1) for s in GOLDEN["magnitude"]], COUNT))


@pytest.mark.parametrize(
    ("scope", "invert", "kept"),
    [
        ("global", False, ([[False, True], [True, True]], [[False, False]])),
        ("global", True, ([[True, False], [False, False]], [[True, True]])),
        ("layer", False, ([[False, True], [False, True]], [[False, True]])),
        ("layer", True, ([[True, False], [True, False]], [[True, False]])),
    ],
)
def test_by_hand(scope, invert, kept):
    ticket = make_ticket([jnp.array([[1.0, -4.0], [2.0, 3.0]]), jnp.array([[0.1, -0.2]]), jnp.ones(2)])
    (phase,) = magnitude(ticket.mask, sparsity=0.5, scope=scope, invert=invert)
    (end,) = searched(phase, ticket, [])
    same(end.mask, [np.array(q) for q in kept] + [None])


def test_a_floor_for_each_layer():
    ticket = make_ticket([jnp.array([[1.0, -4.0], [2.0, 3.0]]), jnp.array([[0.1, -0.2]]), jnp.ones(2)])
    (phase,) = magnitude(ticket.mask, sparsity=0.5, at_least=1)
    (end,) = searched(phase, ticket, [])
    same(end.mask, [np.array([[False, True], [False, True]]), np.array([[False, True]]), None])
    for given, said in [
        ({"at_least": 2}, "at most the 3 weights kept, got 2 in each of 2 layers, 4 in all"),
        (
            {"at_least": 1, "scope": "layer"},
            "at_least: expected 0 in the scope 'layer', where each layer has its count",
        ),
        ({"at_least": -1}, "at_least: expected an integer of 0 or more, got -1"),
        ({"at_least": 1.0}, "at_least: expected an integer of 0 or more, got 1.0"),
    ]:
        with pytest.raises(ValueError, match=said):
            magnitude(ticket.mask, sparsity=0.5, **given)


def test_recipe_and_errors():
    mask, last = make_ticket().mask, finetune(num_epochs=1, steps_per_epoch=1, learning_rate=0.1)
    assert magnitude(mask, sparsity=0.5, finetune=last)[1] is last
    with pytest.raises(ValueError, match=r"0.999 keeps none of 172 weights"):
        magnitude(mask, sparsity=0.999)
    with pytest.raises(ValueError, match=r"scope: expected 'global' or 'layer', got 'rows'"):
        magnitude(mask, sparsity=0.5, scope="rows")
