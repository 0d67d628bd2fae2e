"""What is measured of runs: diagnostics at an epoch's end, on the device, and accuracies before finetuning."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.problem.problem import Problem
from experiments.run_folder.summary import SearchResult
from experiments.training.run import Run
from experiments.training.stacking import EACH
from rare_gems import masks, views
from rare_gems.phase import Info, Mask, Params, Phase, Recipe, Ticket
from rare_gems.training.trainer import Carry

__all__ = ["Measured", "Observed", "accuracies_before", "has_two_masks", "layer_counts", "masked_support",
           "may_be_best", "measure_fn", "spell_accuracies"]  # fmt: skip


class Observed(NamedTuple):
    """What is measured at an epoch's end, still on the device; of several runs, each with a leading axis. Counts are
    int32 [layers], in leaf order."""

    info: Info
    first_bad: jax.Array
    kept_frozen: jax.Array
    kept: jax.Array


Measured = tuple[Observed, Mask, Params]


def _measure(phase: Phase, carry: Carry, previous: Mask) -> Measured:
    key = jax.random.fold_in(jax.random.fold_in(carry.key, 2**31 - 3), carry.step)
    seen = phase.view(carry.ticket, carry.step, key)
    support = views.support(phase.view, carry.ticket, carry.step, key)
    flips = masks.num_kept(jax.tree.map(jnp.logical_xor, support, previous))
    steps = jnp.maximum(carry.totals.num_steps, 1).astype(jnp.float32)
    info = Info(carry.totals.loss / steps, carry.totals.accuracy / steps, masks.sparsity(support), flips)
    return Observed(info, carry.totals.first_bad, _counts(carry.ticket.mask), _counts(support)), support, seen


@functools.lru_cache(maxsize=16)  # not JAX's own cache by static arguments, which forgets nothing
def measure_fn(phase: Phase, many: bool) -> Callable[[Carry, Mask], Measured]:
    """The compiled diagnostics of an epoch of a phase, of one run or of `many` with a leading axis (but for the step).

    Returns:
      (carry, the effective mask at the end of the epoch before) -> the diagnostics, the effective mask, and the params
      that the network sees, for evaluation.
    """

    def measure(carry: Carry, previous: Mask) -> Measured:
        return _measure(phase, carry, previous)

    def measure_many(carry: Carry, previous: Mask) -> Measured:
        return jax.vmap(measure, in_axes=(EACH, 0))(carry, previous)

    return jax.jit(measure_many if many else measure)


@jax.jit
def masked_support(ticket: Ticket) -> Mask:
    """The effective mask where the mask alone decides: as a phase ends. Of one run or of several."""
    return views.support(views.masked, ticket, 0, jax.random.key(0))


@functools.partial(jax.jit, static_argnums=1)
def layer_counts(mask: Mask, many: bool = False) -> jax.Array:
    """How many weights each layer keeps: int32 [layers], in leaf order; of `many` runs with a leading axis."""
    return jax.vmap(_counts)(mask) if many else _counts(mask)


def _counts(mask: Mask) -> jax.Array:
    return jnp.stack([jnp.sum(leaf, dtype=jnp.int32) for leaf in jax.tree.leaves(mask)])


def has_two_masks(phase: Phase) -> bool:
    """Whether the network sees rounded scores in this phase (GEM-MINER), so that q and q * r(p) are two masks."""
    return phase.view in (views.rounded, views.sampled) and phase.hold_dead


def accuracies_before(run: Run, problem: Problem, found: SearchResult, mask: Mask) -> dict[str, float | None]:
    """Test accuracy of the weights under the mask to be finetuned, of many classes also among the top 5; of GEM-MINER
    under q, where that froze any, and as it saw them."""
    search = next((phase for phase in run.recipe if has_two_masks(phase)), None)
    test = problem.splits["test"]

    def under(params: Params) -> float:
        return float(problem.accuracy(params, found.model_state, test))

    kept = masks.apply(found.ticket.params, mask)
    before, *more = np.asarray(problem.ranked(kept, found.model_state, test)).tolist()
    top5 = {"top5_before_finetune": more[0]} if more else {}
    both: dict[str, float | None] = {"before_finetune_frozen": None, "before_finetune_rounded": None}
    if search and masks.num_kept(found.ticket.mask) < masks.num_prunable(found.ticket.mask):
        seen = search.view(found.ticket, search.num_steps, jax.random.fold_in(run.key, 2**31 - 3))
        frozen = masks.apply(found.ticket.params, found.ticket.mask)
        both = {"before_finetune_frozen": under(frozen), "before_finetune_rounded": under(seen)}
    return {"before_finetune": before} | both | top5


def may_be_best(recipe: Recipe, index: int, num_kept: Callable[[], int], target: int) -> bool:
    """Whether the best epoch of validation is looked for in a phase: in the finetuning; without one, in the last
    training, as soon as no more weights are kept than were asked for.

    Args:
      index: of the phase. num_kept: how many the network sees, asked only where it matters. target: how many may be.
    """
    last = max(i for i, phase in enumerate(recipe) if phase.num_steps)
    if recipe[index].name == "finetune" or index != last:
        return recipe[index].name == "finetune"
    return num_kept() <= target


def spell_accuracies(before: dict[str, float | None]) -> str:
    """Those accuracies as a line for the display."""
    q, rounded = before["before_finetune_frozen"], before["before_finetune_rounded"]
    both = f" (q {100 * q:.2f} %, q and r(p) {100 * rounded:.2f} %)" if q is not None and rounded is not None else ""
    return f"the ticket is found: test accuracy before finetuning {100 * (before['before_finetune'] or 0):.2f} %{both}"
