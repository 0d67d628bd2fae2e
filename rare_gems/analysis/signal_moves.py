"""Rules for operations that move elements to places that are known, or add them there."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from rare_gems.analysis.host_operations import compute
from rare_gems.analysis.operands import Bools, Operand, Ruling, numbers, only_signals

__all__ = ["moved", "scattered"]


def moved(which: Sequence[int], primitive: Any, params: dict[str, Any], operands: Sequence[Operand]) -> Ruling | None:
    """Elements that are moved, from the operands in `which` by the others, which have to be known: each element is
    given a number, and the numbers are moved."""
    if any(operand.live.any() for i, operand in enumerate(operands) if i not in which):
        return None
    sizes = [operands[i].live.size for i in which]
    starts = dict(zip(which, np.cumsum([0, *sizes[:-1]]).tolist(), strict=True))
    numbered = [
        np.arange(starts[i], starts[i] + one.live.size, dtype=np.int32).reshape(one.live.shape) if i in starts
        else one.value
        for i, one in enumerate(operands)
    ]  # fmt: skip
    params = params | {"fill_value": -1} if "fill_value" in params else params
    num_out = len(params["sizes"]) if primitive.name == "split" else 1
    targets = [np.asarray(one) for one in compute(primitive, params, numbered, [np.int32] * num_out)]
    total = sum(sizes)
    targets = [np.where((one < 0) | (one >= total), total, one) for one in targets]  # what is filled in is no operand's
    lives = np.concatenate([*(operands[i].live.ravel() for i in which), [False]])

    def pull(needs: list[Bools]) -> list[Bools | None]:
        found = np.zeros(total + 1, bool)
        for need, one in zip(needs, targets, strict=True):
            found[one[need]] = True
        return [
            found[starts[i] : starts[i] + one.live.size].reshape(one.live.shape) if i in starts else None
            for i, one in enumerate(operands)
        ]

    return [lives[one] for one in targets], pull


def scattered(bind: Callable, operands: Sequence[Operand], constants: bool) -> Ruling:
    """Elements that are added to others, at places that are known."""
    lives = [operands[0].live, operands[2].live]

    def added(into: Any, updates: Any) -> Any:
        return bind(into, operands[1].value, updates)

    def pull(needs: list[Bools]) -> list[Bools | None]:
        shapes = [jax.ShapeDtypeStruct(live.shape, np.float32) for live in lives]
        return [np.asarray(one) > 0.5 for one in jax.linear_transpose(added, *shapes)(numbers(needs[0]))]

    live = np.asarray(added(*map(numbers, lives))) > 0.5
    pull = pull if constants else only_signals(lives, [live], pull)

    def spread(needs: list[Bools]) -> list[Bools | None]:
        into, updates = pull(needs)
        return [into, None, updates]

    return [live], spread
