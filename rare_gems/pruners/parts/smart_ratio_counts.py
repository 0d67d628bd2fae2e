"""Smart ratios: random tickets whose layers are the sparser the deeper they lie.

Source: Su et al., Sanity-Checking Pruning Methods: Random Tickets can Win the Jackpot, 2020, section 4.2 (v1; other
decays as in the switches of its code, whose results are in an appendix);
Sreenivasan et al., Rare Gems (v1), Appendix B, "How far can we take random pruning?" (v2, v3; for v4 to v6 see
`pruners.smart_ratio_search`).
"""

import fractions
import math
from collections.abc import Sequence
from typing import Any, Literal, get_args

import jax

from rare_gems.keep_ratios import none_empty
from rare_gems.masks import count_for
from rare_gems.pruners.parts.depth import layers_by_depth

__all__ = ["GEM_MINER_ENDS", "Decay", "check_rule", "smart_ratio_counts"]

Decay = Literal["quadratic", "linear", "cubic", "uniform", "ascending"]

# The ratios of the first and last layer of GEM-MINER's ResNet-20 by sparsity, as published: 149 of 432 and 166 of
# 640; 179 of 432 (the printed digits fall just short of it) and 350 of 640.
GEM_MINER_ENDS = {0.9856: (0.3449074074074074, 0.259375), 0.9628: (0.4143518518518518, 0.546875)}


def check_rule(family: str, decay: str, linear: float | None, ends: Any, version: str, takes_ends: bool) -> None:
    """Raises ValueError for an unknown family or decay, a ratio out of range, and ends that are not taken."""
    for name, value, known in [("family", family, ("resnet", "vgg")), ("decay", decay, get_args(Decay))]:
        if value not in known:
            raise ValueError(f"smart ratio {name}: expected one of {', '.join(known)}, got {value!r}")
    if linear is not None and not 0 < linear <= 1:
        raise ValueError(f"linear: expected a number in (0, 1] or None, got {linear}")
    if ends is not None and not takes_ends:
        raise ValueError(f"smart ratio {version}: takes no ends; expected version v2, or v5 without ratios")


def smart_ratio_counts(
    mask: Any,
    sparsity: float,
    *,
    version: Literal["v1", "v2", "v3"] = "v1",
    family: Literal["resnet", "vgg"] = "resnet",
    decay: Decay = "quadratic",
    ends: tuple[float, float] | None = None,
    linear: float | None = 0.3,
    exact: bool = True,
    order: Sequence[str] | None = None,
) -> Any:
    """How many weights of each layer a smart ratio keeps: a tree of integers for `keep_top(scope="layer")`.

      p_l = c ((L - l + 1)^2 + (L - l + 1)) for layer l of L, with VGG divided by l^2;  p_l = 0.3 where it is linear;
      c is such that the target is met; what a layer cannot hold goes to those behind it.

    Other decays, with k = L - l + 1, put k ("linear"), k^3 ("cubic") or l^2 + l ("ascending") in the place of k^2 + k,
    or take equal ratios ("uniform", of VGG too).

    v2 takes the ratios of the first and last layer from GEM-MINER, v3 keeps them dense.

    Args:
      mask: any tree with the prunable leaves' shapes. Linear layers are those with two dimensions.
      sparsity: the fraction removed. version: "v1", "v2" or "v3". family: which of the two rules.
      decay: how the ratios fall with depth, as by the switches of Su et al.'s code, which divides by l^2 for VGG then
        too (so "ascending" falls there from 2 to 1). "ascending" leaves every layer a weight, where the code empties
        the first.
      ends: v2's ratios of the first and last layer; by default GEM_MINER_ENDS, for ResNet-20.
      linear: the ratio of linear layers; None treats them as all others (for networks that have no convolution).
      exact: meet `count_for(n, sparsity)`: v1 hands the weights that rounding down loses to the largest remainders;
        v2 and v3 scale the layers between. False reproduces the published counts: each is int(p_l m_l), so v1
        keeps a few weights too few, and v2 and v3 keep v1's ratios between the ends, and so too many.
      order: the names of the layers from first to last, as `models.layer_order.layer_order` finds them; None: where
        the tree tells them itself (see `layers_by_depth`). The papers count down-sampling convolutions after their
        block's others, where our networks have them.
    Returns:
      a tree of integers.
    Raises:
      ValueError: where the order is not told, for an unknown version or family, ends that are missing or out of range,
        a layer left without a weight, and where the layers of fixed ratio keep more than the target or the others
        cannot hold the rest.
    Example:
      >>> mask = [jax.ShapeDtypeStruct((3, 3, 3, 16), bool), jax.ShapeDtypeStruct((3, 3, 16, 16), bool)]
      >>> mask.append(jax.ShapeDtypeStruct((16, 10), bool))
      >>> smart_ratio_counts(mask, 0.8), smart_ratio_counts(mask, 0.8, exact=False)
      ([145, 386, 48], [144, 386, 48])
    """
    if version not in ("v1", "v2", "v3"):
        raise ValueError(f"smart ratio version: expected one of v1, v2, v3, got {version!r}")
    check_rule(family, decay, linear, ends, version, takes_ends=version == "v2")
    places = layers_by_depth(mask, order)
    leaves = jax.tree.leaves(mask)
    shapes = [leaves[place].shape for place in places]
    sizes = [math.prod(shape) for shape in shapes]
    n, last = sum(sizes), len(sizes) - 1
    number: Any = fractions.Fraction if exact else float
    cut: Any = (lambda x: x) if exact else int
    kept = count_for(n, sparsity)
    kept = kept if exact else int((1 - sparsity) * n)  # in floats, as in the published code
    raw = [number(_falling(decay, i + 1, last - i + 1)) for i in range(last + 1)]
    if family == "vgg" and decay != "uniform":
        raw = [number(r) / (i + 1) ** 2 for i, r in enumerate(raw)]

    fixed = {} if linear is None else {i: number(str(linear)) for i, shape in enumerate(shapes) if len(shape) == 2}
    given = {} if version == "v1" else dict(zip((0, last), _ends(version, ends, sizes, sparsity), strict=True))
    if exact:
        fixed |= {i: fractions.Fraction(max(1, round(p * sizes[i])), sizes[i]) for i, p in given.items()}
    ratios = _spread(
        sizes,
        raw,
        fixed,
        kept,
        cut,
        f"smart ratio {version} at sparsity {sparsity}",
        "; linear=None lets linear layers follow the rule" if set(fixed) - set(given) else "",
    )
    if not exact:
        ratios |= given
    shares = [ratios[i] * size for i, size in enumerate(sizes)]
    counts = [int(share) for share in shares]
    if exact:
        behind = sorted(range(last + 1), key=lambda i: (counts[i] - shares[i], i))
        for i in behind[: kept - sum(counts)]:
            counts[i] += 1
    while decay == "ascending" and 0 in counts and max(counts) > 1:
        counts[counts.index(max(counts))] -= 1
        counts[counts.index(0)] += 1
    in_leaf_order = [count for _, count in sorted(zip(places, counts, strict=True))]
    return none_empty(mask, in_leaf_order, f"smart ratio {version}", "expected a lower sparsity")


def _falling(decay: Decay, depth: int, k: int) -> int:
    return {"linear": k, "cubic": k**3, "uniform": 1, "ascending": depth**2 + depth}.get(decay, k**2 + k)


def _ends(version: str, ends: tuple[float, float] | None, sizes: list[int], sparsity: float) -> tuple[float, float]:
    if version == "v3":
        return 1.0, 1.0
    if len(sizes) < 2:
        raise ValueError(f"smart ratio v2: expected a network of two layers or more, got {len(sizes)}")
    if ends is None:
        is_resnet20 = len(sizes) == 20 and (sizes[0], sizes[-1]) == (432, 640)
        if not is_resnet20 or float(sparsity) not in GEM_MINER_ENDS:
            raise ValueError(
                f"smart ratio v2: GEM-MINER's first and last ratio are known for ResNet-20 at "
                f"{' and '.join(map(str, GEM_MINER_ENDS))}, not for {len(sizes)} layers at {sparsity}; expected "
                f"ends=(first, last)"
            )
        ends = GEM_MINER_ENDS[float(sparsity)]
    if len(ends) != 2 or not all(0 < p <= 1 for p in ends):
        raise ValueError(f"smart ratio v2: expected two ends in (0, 1], got {ends}")
    return ends


def _spread(
    sizes: list[int], raw: list, fixed: dict[int, Any], kept: int, cut: Any, name: str, hint: str
) -> dict[int, Any]:
    """The ratios, in proportion to `raw` but where they are fixed; `cut` is int where the published code rounds."""
    free = [i for i in range(len(sizes)) if i not in fixed]
    n, set_aside = sum(sizes), cut(sum(p * sizes[i] for i, p in fixed.items()))
    most = int(set_aside) + sum(sizes[i] for i in free)
    if kept > most or kept < set_aside or (kept == set_aside) != (not free):
        least = math.floor(set_aside) + len(free)
        raise ValueError(
            f"{name}: keeps {kept} of {n} weights, but with {len(fixed)} of {len(sizes)} layers at fixed ratios "
            f"({float(set_aside):.0f} weights) expected between {least} and {most}, a sparsity from "
            f"{1 - most / n:.4g} to {1 - least / n:.4g}{hint}"
        )
    ratios = dict(fixed)
    if free:
        scale = (kept - set_aside) / sum(cut(sizes[i] * raw[i]) for i in free)
        ratios |= {i: raw[i] * scale for i in free}
    surplus = 0
    for i in free if raw[0] >= raw[-1] else free[::-1]:  # from the highest ratio to the lowest
        before, surplus = surplus, surplus + cut((ratios[i] - 1) * sizes[i])
        if surplus < 0:
            ratios[i] += before / sizes[i]
            break
        ratios[i] = ratios[i] ** 0
    return ratios
