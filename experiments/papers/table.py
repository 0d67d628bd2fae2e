"""Every item of the papers, by its id."""

from experiments.papers import (
    lottery_jackpots,
    rare_gems,
    rare_gems_v1,
    sanity_checking,
    small_networks,
    stabilizing,
    stabilizing_imagenet,
)
from experiments.papers.item import Item

__all__ = ["ITEMS"]

_FILES = (rare_gems, rare_gems_v1, stabilizing, stabilizing_imagenet, lottery_jackpots, sanity_checking, small_networks)
ITEMS: dict[str, Item] = {item.id: item for file in _FILES for item in file.ITEMS}
