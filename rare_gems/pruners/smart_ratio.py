"""Smart ratios: random tickets at given layer ratios, and the versions of them that Rare Gems compares with.

Source: Su et al., Sanity-Checking Pruning Methods: Random Tickets can Win the Jackpot, 2020, section 4.2;
Sreenivasan et al., Rare Gems (v1), Appendix B, "How far can we take random pruning?".
"""

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import jax

from rare_gems.phase import Mask, Phase, Recipe
from rare_gems.pruners.parts.depth import layers_by_depth
from rare_gems.pruners.parts.smart_ratio_counts import Decay, check_rule, smart_ratio_counts
from rare_gems.pruners.random_mask import random_ticket
from rare_gems.pruners.smart_ratio_search import smart_ratio_search

__all__ = ["smart_ratio"]


def smart_ratio(
    mask: Mask,
    *,
    sparsity: float,
    version: Literal["v1", "v2", "v3", "v4", "v5", "v6"] = "v1",
    finetune: Phase | None = None,
    family: Literal["resnet", "vgg"] = "resnet",
    decay: Decay = "quadratic",
    ends: tuple[float, float] | None = None,
    ratios: Sequence[float] | Mapping[str, float] | None = None,
    exact: bool = True,
    linear: float | None = 0.3,
    num_epochs: int = 0,
    steps_per_epoch: int = 0,
    learning_rate: float = 0.1,
    momentum: float = 0.0,
    candidates: int = 8,
    radius: float = 0.3,
    candidate_steps: int = 20,
    seed: int = 0,
    order: Sequence[str] | None = None,
) -> Recipe:
    """A random mask whose layers are the sparser the deeper they lie.

      p_l = c ((L - l + 1)^2 + (L - l + 1)) for layer l of L (see `smart_ratio_counts`)

    | version | ratios |
    |---|---|
    | v1 | those of Su et al. |
    | v2 | first and last layer from GEM-MINER |
    | v3 | first and last layer dense |
    | v4 | the best of a few near IMP's |
    | v5 | v2's, tuned by SGD |
    | v6 | v4's, tuned by SGD |

    Args:
      mask: the prunable structure. sparsity: the fraction removed.
      finetune: the last phase; None stops at the mask.
      version: v1: Su et al.; v2, v3: other first and last layers; v4: a search near IMP's; v5, v6: SGD on v2, v4
      family: which of Su et al.'s two rules (v1, v2, v3, v5)
      decay: how ratios fall with depth: by the rule, by another power of the depth, not at all, or the other way round
        (Su et al.'s ablation; v1, v2, v3, v5)
      linear: keep ratio of the linear layers; None: they follow the rule too (v1, v2, v3, v5)
      ends: v2 and v5, as in `smart_ratio_counts`.
      exact: hit the asked sparsity exactly (v4 to v6 always do); without it the counts are as in the papers (v2 and v3
        keep more)
      ratios: v4 and v6: one a layer, from first to last or by name, such as those of an IMP ticket; v5: instead of
        v2's.
      num_epochs, steps_per_epoch, learning_rate, momentum: v5 and v6, the SGD on the ratios.
      candidates: v4, v6: how many ratios are tried
      radius: v4, v6: standard deviation of the logarithm of a tried ratio around IMP's
      candidate_steps: v4, v6: random masks drawn for each
      seed: of the ratios tried (see `smart_ratio_search.choose`).
      order: the names of the layers from first to last, as in `smart_ratio_counts`; needed where the mask is a dict
        whose keys tell no depth.
    Returns:
      v1, v2, v3: (edit, finetune); for the others see `smart_ratio_search`.
    Raises:
      ValueError: for an unknown version or family, ratios that are missing, a sparsity they cannot meet, or an order
        that is not told.
    Example:
      >>> layers = [(3, 3, 3, 16), (3, 3, 16, 16), (16, 10)]
      >>> mask = [jax.ShapeDtypeStruct(shape, bool) for shape in layers]
      >>> [phase.name for phase in smart_ratio(mask, sparsity=0.7, version="v3")]
      ['edit']

    Deviations: the mask has exactly the target count; the published counts of v2 and v3 keep more (1.47 and 1.75 % at
    1.44 %, Table 16). For those of v4 to v6, of which no code is known, see `smart_ratio_search`.
    """
    options = {"family": family, "decay": decay, "ends": ends, "linear": linear, "order": order}
    if version in ("v1", "v2", "v3"):
        if ratios is not None:
            raise ValueError(f"smart ratio {version}: takes no ratios; expected version v4, v5 or v6")
        counts = smart_ratio_counts(mask, sparsity, version=version, exact=exact, **options)
        return random_ticket(mask, counts, finetune)
    if version not in ("v4", "v5", "v6"):
        raise ValueError(f"smart ratio version: expected one of v1, v2, v3, v4, v5, v6, got {version!r}")
    check_rule(family, decay, linear, ends, version, takes_ends=version == "v5" and ratios is None)
    if ratios is None:
        if version != "v5":
            raise ValueError(f"smart ratio {version}: starts from IMP's ratios; expected ratios=, one a layer")
        counts = smart_ratio_counts(mask, sparsity, version="v2", **options)
        sizes = [math.prod(leaf.shape) for leaf in jax.tree.leaves(mask)]
        started = [count / size for count, size in zip(jax.tree.leaves(counts), sizes, strict=True)]
        ratios = [started[place] for place in layers_by_depth(mask, order)]
    return smart_ratio_search(
        mask, sparsity=sparsity, ratios=ratios, version=version, finetune=finetune,
        num_steps=num_epochs * steps_per_epoch, learning_rate=learning_rate, momentum=momentum,
        num_candidates=candidates, radius=radius, candidate_steps=candidate_steps, seed=seed, order=order,
    )  # fmt: skip
