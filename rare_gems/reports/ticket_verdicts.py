"""What kind of ticket is it? The columns of Table 1 of Rare Gems as rules over accuracies. Needs SciPy.

The paper ticks its columns by eye, from its section 3: a rare gem is sparse, has "non-trivial pre-training accuracy",
and "can be finetuned to achieve accuracy close to" the best. The rules, intervals and thresholds here are choices.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

from rare_gems.reports import verdicts

__all__ = ["Answer", "accurate_at_init", "finetunable", "passes_sanity"]

Answer = Literal["yes", "no", "undecided"]


def accurate_at_init(
    before: Sequence[float | None], chance: float, margin: float = 0.05, confidence: float = 0.95
) -> Answer:
    """Whether the ticket is better than guessing before any weight is trained.

      yes        the interval of its accuracies over seeds lies above chance + margin
      no         it lies below chance + margin
      undecided  it holds chance + margin, or there are fewer than two seeds

    Args:
      before: accuracies before finetuning for each seed (fractions), None where there is none; of the network with its
        initial weights under the mask.
      chance: the accuracy of a guess. margin: above it, a fraction; what still counts as guessing.
      confidence: of Student's interval.
    Raises:
      ValueError: an accuracy, chance or margin outside of [0, 1].
    Example:
      >>> accurate_at_init([0.45, 0.47, 0.44], 0.1), accurate_at_init([0.10, 0.11, 0.10], 0.1)
      ('yes', 'no')

    Source: Rare Gems, section 3, condition (ii). Its Table 1 has "prunes at initialization" in this place, which is a
      fact of the method and not of accuracies: SNIP has it, and is no better than guessing.
    """
    return _above(before, _fractions(before, chance, margin)[0] + margin, confidence)


def finetunable(
    after: Sequence[float | None],
    reference: Sequence[float | None],
    chance: float,
    share: float = 0.75,
    confidence: float = 0.95,
) -> Answer:
    """Whether the ticket, finetuned, comes near the reference: a `share` of the way there from chance.

      yes        the interval of its accuracies lies above chance + share (mean(reference) - chance)
      no         it lies below
      undecided  it holds that level, or there are fewer than two seeds, or no reference

    Args:
      after: accuracies after finetuning for each seed (fractions), None where there is none.
      reference: those of the best ticket of equal sparsity, or of the dense network. chance: the accuracy of a guess.
      share: of the way, in (0, 1].
      confidence: of Student's interval.
    Raises:
      ValueError: a number outside of [0, 1], or a share outside of (0, 1].
    Example:
      >>> best, ep = [0.660, 0.664, 0.661], [0.245, 0.250, 0.239]  # Rare Gems, Table 3: GEM-MINER and edge-popup
      >>> finetunable(ep, best, 0.1), finetunable(best, best, 0.1)
      ('no', 'yes')

    Source: Rare Gems, section 3, condition (iii). There it is "close to that of the fully trained dense network", which
      at 98.6 % none of the tickets that its Table 1 ticks would be (77.9 % against 91 %): take the best ticket.
      With 0.75 smart ratios (65.6 to 69.9 %, ticked) are finetunable beside GEM-MINER's 77.9 %.
    """
    if not 0 < share <= 1:
        raise ValueError(f"share: expected a fraction in (0, 1], got {share}")
    _fractions([*after, *reference], chance, 0.0)
    known = [value for value in reference if value is not None]
    if not known:
        return "undecided"
    return _above(after, chance + share * (sum(known) / len(known) - chance), confidence)


def passes_sanity(
    ticket: Sequence[float | None], checks: Mapping[str, Sequence[float | None]], margin: float = 0.01
) -> Answer | None:
    """Whether every sanity check costs the ticket accuracy.

      yes        `verdicts.verdict` says of every check that the ticket passes it
      no         it says of one that the ticket fails it: a cost of `margin` or more is ruled out
      undecided  neither
      None       no check was made: none applies, as to random tickets and to pruning after training

    Args:
      ticket: accuracies after finetuning for each seed (fractions). checks: for each check those of what it made of the
        ticket, in the same order of seeds; None where there is none.
      margin: the smallest cost that matters.
    Raises:
      ValueError: other numbers of seeds, or what `verdicts.paired_drop` refuses.
    Example:
      >>> ticket = [0.77, 0.78, 0.76]
      >>> passes_sanity(ticket, {"shuffle": [0.70, 0.71, 0.70], "reinit": [0.71, 0.71, 0.69]})
      'yes'
      >>> passes_sanity(ticket, {"shuffle": [0.77, 0.78, 0.76]})
      'no'

    Source: Rare Gems, section 4, whose Table 1 counts the checks of Frankle et al. (shuffle, reinit, invert).
    """
    found = []
    for name, checked in checks.items():
        if len(checked) != len(ticket):
            raise ValueError(f"{name}: expected {len(ticket)} accuracies, as the ticket has, got {len(checked)}")
        pairs = [(a, b) for a, b in zip(ticket, checked, strict=True) if a is not None and b is not None]
        if pairs:
            drop = verdicts.paired_drop([a for a, _ in pairs], [b for _, b in pairs])
            found.append(verdicts.verdict(drop, margin))
        else:
            found.append("undecided")
    if not found:
        return None
    if "fails" in found:
        return "no"
    return "undecided" if "undecided" in found else "yes"


def _above(values: Sequence[float | None], level: float, confidence: float) -> Answer:
    known = [float(value) for value in values if value is not None]
    if len(known) < 2:
        return "undecided"
    interval = verdicts.interval(known, confidence)
    if interval.low is None or interval.high is None or interval.low <= level <= interval.high:
        return "undecided"
    return "yes" if interval.low > level else "no"


def _fractions(values: Sequence[float | None], chance: float, margin: float) -> tuple[float, float]:
    numbers = [*(value for value in values if value is not None), chance, margin]
    if not all(0 <= number <= 1 for number in numbers):
        raise ValueError(f"expected fractions in [0, 1], got {numbers}")
    return chance, margin
