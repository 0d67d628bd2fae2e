"""Test accuracy of a ticket before it is finetuned, under each of the masks that it has."""

import jax

from experiments.problem import Problem
from experiments.resuming import Found, Job
from rare_gems import masks, views
from rare_gems.phase import Mask, Params, Phase

__all__ = ["accuracies_before", "rounds", "spell"]


def rounds(phase: Phase) -> bool:
    """Whether the network sees rounded scores in this phase (GEM-MINER), so that q and q * r(p) are two masks."""
    return phase.view in (views.rounded, views.sampled) and phase.hold_dead


def accuracies_before(job: Job, problem: Problem, found: Found, mask: Mask) -> dict[str, float | None]:
    """Test accuracy of the weights under the mask to be finetuned; of GEM-MINER also under q, and as it saw them."""
    search = next((phase for phase in job.recipe if rounds(phase)), None)
    test = problem.splits["test"]

    def under(params: Params) -> float:
        return float(problem.accuracy(params, found.model_state, test))

    both: dict[str, float | None] = {"before_finetune_frozen": None, "before_finetune_rounded": None}
    if search:
        seen = search.view(found.ticket, search.num_steps, jax.random.fold_in(job.key, 2**31 - 3))
        frozen = masks.apply(found.ticket.params, found.ticket.mask)
        both = {"before_finetune_frozen": under(frozen), "before_finetune_rounded": under(seen)}
    return {"before_finetune": under(masks.apply(found.ticket.params, mask))} | both


def spell(before: dict[str, float | None]) -> str:
    """The same as a line for the display."""
    q, rounded = before["before_finetune_frozen"], before["before_finetune_rounded"]
    both = f" (q {100 * q:.2f} %, q and r(p) {100 * rounded:.2f} %)" if q is not None and rounded is not None else ""
    return f"the ticket is found: test accuracy before finetuning {100 * (before['before_finetune'] or 0):.2f} %{both}"
