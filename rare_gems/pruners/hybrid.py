"""Hybrid tickets: the largest trained weights of each layer, at ratios that no data decides.

Source: Su et al., Sanity-Checking Pruning Methods: Random Tickets can Win the Jackpot, 2020, section 5.2.
"""

from collections.abc import Sequence
from typing import Any, Literal

from rare_gems import transforms
from rare_gems.phase import Mask, Phase, Recipe
from rare_gems.pruners.parts.counts import check_counts
from rare_gems.pruners.parts.smart_ratio_counts import smart_ratio_counts

__all__ = ["hybrid"]


def hybrid(
    mask: Mask,
    *,
    sparsity: float,
    training: Phase,
    finetune: Phase | None = None,
    counts: Any | None = None,
    version: Literal["v1", "v2", "v3"] = "v1",
    family: Literal["resnet", "vgg"] = "resnet",
    ends: tuple[float, float] | None = None,
    linear: float | None = 0.3,
    exact: bool = True,
    invert: bool = False,
    order: Sequence[str] | None = None,
) -> Recipe:
    """Trains the dense network, keeps the largest |w| of each layer at smart ratios, and trains on from there.

      q_l = top_{k_l}(|w_T|) with k_l the smart ratio's counts;  then w_T * q is trained at the full schedule.

    Args:
      mask: the prunable structure. sparsity: the fraction removed.
      training: the dense training, for example from `pruners.parts.finetune`.
      finetune: the last phase, a new one: its learning rate starts afresh. None stops at the mask.
      counts: how many weights each layer keeps, a tree of integers, instead of a smart ratio's.
      family: which of Su et al.'s two rules gives the layer ratios
      linear: keep ratio of the linear layers; None: they follow the rule too
      version, ends, exact: of the smart ratio, as in `smart_ratio_counts`.
      invert: keep the smallest |w| of each layer instead (a sanity check).
      order: the names of the layers from first to last, as in `smart_ratio_counts`.
    Returns:
      (search, finetune): `training` under that name, pruned at its end.
    Raises:
      ValueError: if `training` trains no weights, the counts do not fit the mask, and as `smart_ratio_counts`.
    Example:
      >>> import jax
      >>> from rare_gems.pruners.parts.finetune import finetune
      >>> layers = [(3, 3, 3, 16), (3, 3, 16, 16), (16, 10)]
      >>> mask = [jax.ShapeDtypeStruct(shape, bool) for shape in layers]
      >>> training = finetune(num_epochs=160, steps_per_epoch=391, learning_rate=0.1)
      >>> [(p.name, p.num_steps) for p in hybrid(mask, sparsity=0.8, training=training, finetune=training)]
      [('search', 62560), ('finetune', 62560)]

    Deviations: the counts meet the sparsity exactly (its code loses up to a weight a layer; exact=False does so too).
    """
    if training.trains != "params":
        raise ValueError(f"hybrid training: expected a phase that trains 'params', got {training.trains!r}")
    if counts is None:
        counts = smart_ratio_counts(
            mask, sparsity, version=version, family=family, ends=ends, linear=linear, exact=exact, order=order
        )
    check_counts(mask, counts)
    prune = transforms.keep_top(counts, "layer", transforms.magnitude, invert=invert)
    search = training._replace(after=transforms.chain(training.after, prune), name="search")
    return (search,) if finetune is None else (search, finetune)
