"""Every item of the papers, by its id."""

from experiments.papers import rare_gems
from experiments.papers.item import Item

__all__ = ["ITEMS"]

ITEMS: dict[str, Item] = {item.id: item for file in (rare_gems,) for item in file.ITEMS}
