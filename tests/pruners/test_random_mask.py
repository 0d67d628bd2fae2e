"""Random tickets: exact counts, and every weight equally likely."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rare_gems import masks
from rare_gems.phase import Context, Ticket
from rare_gems.pruners.parts.finetune import finetune
from rare_gems.pruners.parts.random_scores import random_scores
from rare_gems.pruners.random_mask import random, random_ticket

SHAPES = {"a": (6, 10), "b": (5, 8)}


def make_ticket():
    params = {name: jnp.ones(shape) for name, shape in SHAPES.items()} | {"bias": jnp.ones(3)}
    mask = masks.ones(params)
    return Ticket(params, masks.map_kept(jnp.zeros_like, params, mask), mask)


def edited(phase, key):
    ticket = make_ticket()
    return phase.after.update(ticket, phase.after.init(ticket), Context(jnp.int32(0), key, None, None))[0]


@pytest.mark.parametrize("sparsity", [0, 0.355, 0.9, 0.99])
def test_global_counts(sparsity):
    kept = {0: 100, 0.355: 64, 0.9: 10, 0.99: 1}[sparsity]  # 35.5 removed is a tie: 36, the even one
    (phase,) = random(jax.eval_shape(lambda: make_ticket().mask), sparsity=sparsity)
    assert phase.num_steps == 0
    outs = [edited(phase, jax.random.key(seed)) for seed in range(4)]
    for out in outs:
        masks.check(out.mask, kept)
        assert out.mask["bias"] is None
        assert all(jnp.array_equal(out.params[name], jnp.ones(shape)) for name, shape in SHAPES.items())
    if 0 < sparsity < 0.99:
        assert masks.overlap(outs[0].mask, outs[1].mask) < 1
        assert len({masks.layer_counts(out.mask)["a"] for out in outs}) > 1


def test_layer_counts():
    (phase,) = random(make_ticket().mask, sparsity=0.84, scope="layer")  # 16 kept: shares 9.6 and 6.4
    outs = [edited(phase, jax.random.key(seed)) for seed in range(3)]
    assert all(masks.layer_counts(out.mask) == {"a": (10, 60), "b": (6, 40)} for out in outs)
    assert masks.overlap(outs[0].mask, outs[1].mask) < 1


@pytest.mark.parametrize("scope", ["global", "layer"])
def test_every_weight_is_equally_likely(scope):
    (phase,) = random(make_ticket().mask, sparsity=0.7, scope=scope)
    num = 1000
    draw = jax.jit(jax.vmap(lambda key: edited(phase, key).mask))
    hits = np.concatenate(
        [np.asarray(m.sum(0)).reshape(-1) for m in jax.tree.leaves(draw(jax.random.split(jax.random.key(7), num)))]
    )
    deviations = (hits - num * 0.3) ** 2 / (num * 0.3 * 0.7)
    assert 0.4 < deviations.mean() < 1.7  # 1 expected
    assert deviations.max() < 20


def test_scores_are_uniform_and_only_where_prunable():
    scores = random_scores(make_ticket(), Context(jnp.int32(0), jax.random.key(1), None, None))
    assert scores["bias"] is None
    values = np.concatenate([np.asarray(scores[name]).reshape(-1) for name in SHAPES])
    assert len(np.unique(values)) == 100
    assert values.min() >= 0
    assert values.max() < 1
    assert abs(values.mean() - 0.5) < 5 * np.sqrt(1 / 12 / 100)


def test_recipe_and_errors():
    last = finetune(num_epochs=1, steps_per_epoch=1, learning_rate=0.1)
    mask = make_ticket().mask
    assert random(mask, sparsity=0.5, finetune=last)[1] is last
    with pytest.raises(ValueError, match=r"0.999 keeps none of 100 weights"):
        random(mask, sparsity=0.999)
    with pytest.raises(ValueError, match=r"leave none of the 40 in b"):
        random(mask, sparsity=0.99, scope="layer")
    with pytest.raises(ValueError, match=r"scope: expected 'global' or 'layer', got 'rows'"):
        random(mask, sparsity=0.5, scope="rows")
    with pytest.raises(ValueError, match=r"expected a fraction removed in \[0, 1\), got 50"):
        random(mask, sparsity=50)


def test_random_ticket():
    counts = {"a": 17, "b": 0, "bias": None}
    (phase,) = random_ticket(jax.eval_shape(lambda: make_ticket().mask), counts)
    draw = jax.jit(jax.vmap(lambda key: edited(phase, key).mask))
    drawn = draw(jax.random.split(jax.random.key(3), 1000))
    assert (np.asarray(drawn["a"]).sum((1, 2)) == 17).all()
    assert not np.asarray(drawn["b"]).any()
    share = 17 / 60
    deviations = (np.asarray(drawn["a"]).sum(0) - 1000 * share) ** 2 / (1000 * share * (1 - share))
    assert 0.4 < deviations.mean() < 1.7  # 1 expected
    last = finetune(num_epochs=1, steps_per_epoch=1, learning_rate=0.1)
    assert random_ticket(make_ticket().mask, counts, last)[1] is last
    for wrong, match in [
        ({"a": 61, "b": 1, "bias": None}, r"counts of a: expected an integer from 0 to 60, got 61"),
        ({"a": 6, "b": -1, "bias": None}, r"counts of b: expected an integer from 0 to 40, got -1"),
        ({"a": 6, "b": 1}, r"counts: expected the structure of the mask"),
    ]:
        with pytest.raises(ValueError, match=match):
            random_ticket(make_ticket().mask, wrong)
