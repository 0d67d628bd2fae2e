"""The guide of sparse training: every call in its tables runs, and prunes what it says."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rare_gems import masks, sparse
from rare_gems.pruners.gmp import gmp
from rare_gems.pruners.snfs import snfs
from tests.sparse.test_prune import num_alive_where_removed

TEXT = (Path(sparse.__file__).parent / "README.md").read_text()
OTHERS = ("sparse.masks", "sparse.report", "sparse.keep_")  # no methods
CALLS = [
    call for call in dict.fromkeys(re.findall(r"`(sparse\.[a-zA-Z_]+\([^`]*)`", TEXT)) if not call.startswith(OTHERS)
]
PARAMS = {name: {"kernel": jnp.sin(jnp.arange(512.0) + shift).reshape(32, 16)} for name, shift in (("a", 1), ("b", 9))}
SCORED = masks.map_kept(jnp.abs, PARAMS, masks.ones(PARAMS))
NAMES = {
    "sparse": sparse, "masks": masks, "gmp": gmp, "snfs": snfs, "tx": optax.sgd(0.1), "method": sparse.magnitude(0.8),
    "params": PARAMS, "mask": masks.keep_top(SCORED, 100), "sizes": SCORED, "noise": jax.tree.map(jnp.cos, PARAMS),
    "counts": {"a": {"kernel": 200}, "b": {"kernel": 5}},
}  # fmt: skip


def test_there_are_calls():
    assert len(CALLS) > 25


@pytest.mark.parametrize("call", CALLS)
def test_call(call):
    made = eval(call, dict(NAMES))
    if call.startswith("sparse.straight_through"):
        assert sum(int(np.count_nonzero(leaf)) for leaf in jax.tree.leaves(made)) == 100
        return
    tx = made if isinstance(made, optax.GradientTransformation) else sparse.prune(optax.adam(1e-3), made)
    state = tx.init(PARAMS)
    gradient = jax.tree.map(jnp.cos, PARAMS)
    due = next((int(n) for n in re.findall(r"(?:at|stop)=([\d_]+)", call)), None) or 1
    state = state._replace(step=jnp.int32(due - 1))  # as if all the updates before had been
    updates, state = jax.jit(tx.update)(gradient, state, PARAMS)
    params = optax.apply_updates(PARAMS, updates)
    assert num_alive_where_removed(params, state) == 0
    assert masks.num_kept(sparse.masks(state)) == expected(call)


def expected(call):
    """What the numbers in a call ask for, of 1,024 weights."""
    if "keep_n_of_m" in call:
        return 512
    if "keep_blocks" in call:
        sparsity, rows, columns = re.search(r"keep_blocks\(s, ([\d.]+), \((-?\d+), (-?\d+)\)\)", call).groups()
        rows, columns = (size if int(b) == -1 else int(b) for b, size in ((rows, 32), (columns, 16)))
        num_blocks = 512 // (rows * columns)
        return 2 * rows * columns * (num_blocks - round(num_blocks * float(sparsity)))
    if "keep_channels" in call:
        return 2 * 32 * (16 - round(16 * 0.8))
    if "freezing" in call or ("Method" in call and "snfs" not in call):
        return 1024  # their first round comes later
    return 100 if "fixed" in call or "keep_top" in call else 205 if "0.8" in call or "method" in call else 102
