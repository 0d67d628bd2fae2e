"""Seconds of an optimizer's step, bare and within `sparse.prune` under a fixed mask.

Example: python -m experiments.bench optimizer --sizes resnet18 --repeats 20
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.bench.about import about
from experiments.bench.select import SIZES, kernel_shapes, time_calls
from rare_gems import sparse
from rare_gems.storage.atomic import write_whole

__all__ = ["main"]

OPTIMIZERS: dict[str, Callable[[], optax.GradientTransformation]] = {
    "sgd": lambda: optax.sgd(0.1, momentum=0.9),
    "adamw": lambda: optax.adamw(1e-3),
}


def _measure(name: str, optimizer: str, sparsity: float, repeats: int) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    params = [jnp.asarray(rng.standard_normal(shape), jnp.float32) for shape in kernel_shapes(name)]
    grads = jax.tree.map(lambda w: 0.01 * w, params)
    row: dict[str, Any] = {"network": name, "weights": sum(w.size for w in params), "optimizer": optimizer}
    bare = OPTIMIZERS[optimizer]()
    for what, tx in (("bare", bare), ("pruned", sparse.prune(bare, sparse.magnitude(sparsity)))):
        carry = [jax.tree.map(jnp.copy, params), tx.init(params)]

        def step(params: Any, state: Any, tx: Any = tx) -> tuple[Any, Any]:
            updates, state = tx.update(grads, state, params)
            return optax.apply_updates(params, updates), state

        compiled = jax.jit(step, donate_argnums=(0, 1))

        def call(carry: list = carry, compiled: Any = compiled) -> Any:
            carry[:] = compiled(*carry)
            return carry

        row[f"{what}_seconds"] = time_calls(call, repeats)
    return row | {"ratio": row["pruned_seconds"] / row["bare_seconds"]}


def main(args: list[str]) -> int:
    """Prints the table. Returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.bench optimizer", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=["resnet18"])
    parser.add_argument("--optimizers", nargs="+", choices=list(OPTIMIZERS), default=list(OPTIMIZERS))
    parser.add_argument("--sparsity", type=float, default=0.9, help="fraction removed (default 0.9)")
    parser.add_argument("--repeats", type=int, default=20, help="timed steps (default 20)")
    parser.add_argument("--json", type=Path, help="write the figures there")
    flags = parser.parse_args(args)
    if not 0 <= flags.sparsity < 1:
        parser.error(f"--sparsity: expected a fraction in [0, 1), got {flags.sparsity}")
    if flags.repeats < 1:
        parser.error("--repeats: expected 1 or more")
    facts = about("optimizer") | {"sparsity": flags.sparsity, "dtype": "float32"}
    print(f"device: {facts['device']}, {facts['versions']}, float32, sparsity {flags.sparsity}")
    print(f"{'network':10} {'weights':>12} {'optimizer':>10} {'bare s':>10} {'pruned s':>10} {'ratio':>7}")
    rows = []
    for name in flags.sizes:
        for optimizer in flags.optimizers:
            try:
                row = _measure(name, optimizer, flags.sparsity, flags.repeats)
            except ValueError as error:  # a sparsity that keeps nothing
                parser.error(str(error))
            rows.append(row)
            print(
                f"{name:10} {row['weights']:>12,} {optimizer:>10} {row['bare_seconds']:>10.5f} "
                f"{row['pruned_seconds']:>10.5f} {row['ratio']:>7.3f}",
                flush=True,
            )
    if flags.json:
        write_whole(flags.json, (json.dumps(facts | {"rows": rows}, indent=2) + "\n").encode())
    return 0
