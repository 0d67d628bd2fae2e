"""The values of runs that stand beside a paper's numbers, by their names in `experiments.papers.item`."""

from collections.abc import Mapping, Sequence
from typing import Any

from experiments.catalog.sanity_checks import CHECKS
from experiments.comparison import rows
from experiments.comparison.expand import Combination
from experiments.config.saved import fields_of, flat
from experiments.problem.recipe import Planned
from experiments.reproduction import analyses
from experiments.reproduction.spread import PartRuns
from rare_gems import masks

__all__ = ["Values", "is_percent", "spelled", "unit_of", "values_of"]

Values = dict[tuple[str, str, int], dict[str, float]]  # (column, sparsity, seed) -> {value: number}, in a paper's units
_PLAIN = ("before", "after", "best", "kept", "top5", "top5_before")
_WORDS = {
    "before": "before finetuning", "after": "after finetuning", "kept": "weights kept", "best": "best on validation",
    "top5": "top-5 after finetuning", "search_epochs": "epochs of search",
}  # fmt: skip


def values_of(runs: PartRuns, planned: Sequence[tuple[Combination, Planned]]) -> Values:
    """What is known of every run: what the plans tell, and what those that are finished came to.

    Args:
      planned: of the first seed, as from `comparison.make.plans`.
    """
    plans = {(each.column, each.sparsity): plan for each, plan in planned}
    found: Values = {}
    for each in runs.combinations:
        cell = each.column, each.sparsity, each.config.seed
        found[cell] = _known(each, plans[each.column, each.sparsity]) | _reached(each)
    for cell, more in analyses.computed(runs.part, runs.combinations).items():
        found[cell] |= more
    return found


def _known(each: Combination, plan: Planned) -> dict[str, float]:
    """What is known before anything is trained."""
    fields = flat(fields_of(each.config))
    known = {f"config.{name}": value for name, value in fields.items() if type(value) in (int, float)}
    trained = [phase for phase in plan.recipe if phase.uses_data and phase.num_steps]
    epochs = {part: sum(p.num_steps for p in trained if (p.name == "finetune") is tuned) / plan.steps_per_epoch
              for part, tuned in (("search", False), ("finetune", True))}  # fmt: skip
    return known | {
        "plan.num_prunable": float(masks.num_prunable(plan.mask)), "search_epochs": epochs["search"],
        "epochs": epochs["search"] + epochs["finetune"],
    }  # fmt: skip


def _reached(each: Combination) -> dict[str, float]:
    """What a finished run and its finished checks came to; nothing of one that is not."""
    summaries = rows.summaries(each)
    if summaries is None:
        return {}
    reached: dict[str, float | None] = {}
    for name, summary in summaries.items():
        accuracy: Mapping[str, Any] = summary["accuracy"]
        before, after = (accuracy.get(f"{part}_finetune") for part in ("before", "after"))
        after = before if after is None else after  # without finetuning there is one accuracy
        reached |= {f"{name}.before": before, name: after} if name else {"before": before, "after": after}
    accuracy = summaries[""]["accuracy"]
    reached["top5"] = accuracy.get("top5_after_finetune", accuracy.get("top5_before_finetune"))
    reached["best"] = (accuracy.get("best_validation") or {}).get("test")
    reached["kept"] = summaries[""]["num_kept"] / summaries[""]["num_prunable"]
    return {name: 100 * value for name, value in reached.items() if value is not None}


def is_percent(value: str) -> bool:
    """Whether a value is printed in percent."""
    kind, dot, _ = value.partition(".")
    return value in _PLAIN or kind == "overlap" or value.endswith(".sparsity") or (kind in CHECKS and dot in ("", "."))


def unit_of(value: str) -> str:
    """The unit in which a value is printed, empty for plain numbers.

    Example:
      >>> [unit_of(value) for value in ("after", "stability.order_l2", "connectivity.error_barrier", "config.seed")]
      ['%', 'L2', 'points', '']
    """
    ends = {"epochs": "epochs", "angle": "degrees", "_l2": "L2", "error_barrier": "points"}
    return "%" if is_percent(value) else next((unit for end, unit in ends.items() if value.endswith(end)), "")


def spelled(value: str, sparsity: str) -> str:
    """What a number of a table is: "after finetuning, 98.56 %"."""
    check, dot, before = value.partition(".")
    word = f"{_WORDS['before']}, {check}" if dot and before == "before" else _WORDS.get(value, value.replace("_", " "))
    where = f"{100 * float(sparsity):.6g} %" if float(sparsity) else "dense"
    return f"{word}, {where}"
