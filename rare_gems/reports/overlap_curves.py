"""Overlap of masks over the epochs of a search, or over sparsity."""

from collections.abc import Sequence
from typing import Literal

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from rare_gems.reports import curves, samples
from rare_gems.reports.style import PathLike, Row, save

__all__ = ["plot"]

_AXES = {
    "sparsity": samples.Axis("sparsity", "Sparsity (%)", scale="sparsity", percent=True),
    "epochs": samples.Axis("epochs", "Epochs of the search", scale="log", gaps=False),
}


def plot(
    rows: Sequence[Row],
    path: PathLike | None,
    title: str,
    x: Literal["sparsity", "epochs"],
    label: str = "Overlap of the masks (%)",
    paper: Sequence[Row] = (),
    note: str | None = None,
) -> Figure:
    """Overlap of two masks, a line for each name: the mean over seeds, with its standard deviation.

    Args:
      rows: a dict for each pair of masks: `name` (what the mask is compared with, such as "magnitude"), `sparsity` or
        `epochs`, `overlap` (a fraction), `seed`, and `panel` if there are several. `by_chance`, where given, is the
        overlap of random masks with those ratios: dotted, in the colour of the name.
      path: .png, .pdf or .svg; None to save nothing. title: one line.
      x: what stands across: "sparsity", or "epochs" (on a log scale with a place for 0).
      label: of the y axis; say which overlap it is, such as "Overlap, 1 - |a - b| / k (%)".
      paper: rows with the paper's overlaps (fractions). note: what was reduced.
    Raises:
      ValueError: another x, or no rows with x and an overlap.
    Source: in the manner of Figure 4 of Lottery Jackpots (sparsity), and of its Table 4 (epochs).
    Example:
      >>> rows = [{"name": "magnitude", "epochs": e, "overlap": 1 - e / 1000, "by_chance": 0.82} for e in (0, 10, 30)]
      >>> [line.get_label() for line in plot(rows, None, "ResNet-32, 90 %", "epochs").axes[0].lines]
      ['magnitude', '_by chance']
    """
    if x not in _AXES:
        raise ValueError(f"x: expected one of {list(_AXES)}, got {x!r}")
    y = samples.Axis("overlap", label, percent=True)
    figure, placed = curves.draw(rows, title, _AXES[x], [y], paper, note=note, apart=8.0)
    chance = y._replace(key="by_chance")
    any_chance = False
    for (panel, _), axes in placed.items():
        for line in list(axes.lines):
            mine = [r for r in rows if str(r["name"]) == line.get_label() and str(r.get("panel", "")) == panel]
            points = samples.summarize(mine, _AXES[x]._replace(gaps=False), chance)
            if points.x.size:
                axes.plot(points.x, points.mean, color=line.get_color(), label="_by chance", **_DOTS)
                any_chance = True
        curves.make_room(axes, percent=True)
    if any_chance:
        curves.add_to_legend(figure, [Line2D([], [], color="#555555", label="by chance", **_DOTS)])
    return save(figure, path)


_DOTS = {"linewidth": 1.2, "linestyle": (0, (1, 1.6)), "zorder": 2}
