"""Every item of the papers, by its id."""

from experiments.papers import lottery_jackpots, rare_gems, rare_gems_v1
from experiments.papers.item import Item

__all__ = ["ITEMS"]

ITEMS: dict[str, Item] = {item.id: item for file in (rare_gems, rare_gems_v1, lottery_jackpots) for item in file.ITEMS}
