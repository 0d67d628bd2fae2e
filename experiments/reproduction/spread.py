"""The runs behind an item of a paper: its parts as comparisons, at the paper's scale or at a stated reduction."""

import difflib
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from experiments.catalog.datasets import DATASETS, Facts, Source
from experiments.comparison.columns import Column, Flags, column, paired, spelled
from experiments.comparison.expand import DENSE, Asked, Combination, expand
from experiments.config.config import Config
from experiments.config.flag_names import flag_of
from experiments.config.saved import FREE, digest, fields_of
from experiments.papers import item as papers
from experiments.papers.item import Item, Part, Small
from experiments.papers.table import ITEMS
from experiments.presets.lookup import lookup
from experiments.reproduction.choose import Chosen, choose
from experiments.terminal.errors import UsageError

__all__ = ["PartRuns", "Scale", "Wanted", "item_folder", "item_of", "notes_of", "spread", "without_training"]

Scale = Literal["paper", "small"]
_UNTRAINED = ("config.", "plan.")
_COUNTED = ("epochs", "search_epochs")


class Wanted(NamedTuple):
    """How an item is wanted. root: where runs are, shared by all items. flags: changes of the recipe, as typed.
    num_seeds: None for the paper's trials, or those of the reduction. chosen: some of it alone."""

    scale: Scale
    root: Path
    flags: Sequence[str] = ()
    dataset: str | None = None
    num_seeds: int | None = None
    seed: int = 42
    chosen: Chosen = Chosen()


class PartRuns(NamedTuple):
    """The runs of a part. notes: what is to be told of them: the reduction, what was changed, the network."""

    part: Part
    combinations: list[Combination]
    notes: tuple[str, ...]

    @property
    def title(self) -> str:
        """The part's name, or the network and data set that its runs have."""
        config = self.combinations[0].config
        return self.part.name or f"{config.model}, {DATASETS[config.dataset].title}"


def item_of(name: str) -> Item:
    """The item of that id.

    Raises:
      UsageError: if there is none, naming the nearest.
    """
    if name in ITEMS:
        return ITEMS[name]
    near = difflib.get_close_matches(name, ITEMS, 1, 0.4)
    told = f"the nearest is {near[0]}" if near else "python -m experiments.reproduce lists all"
    raise UsageError(f"{name}: there is no such table, figure or claim; {told}")


def spread(item: Item, wanted: Wanted) -> list[PartRuns]:
    """The runs of every part of an item.

    Raises:
      UsageError: for whatever a run refuses, and a flag that no column takes.
    """
    if without_training(item):
        wanted = wanted._replace(scale="paper")  # there is nothing to reduce
    parts, taken = [], set()
    for part in choose(item, wanted.chosen).parts:
        runs, used = _part(item, part, wanted)
        parts.append(runs)
        taken |= used
    titles = [runs.title for runs in parts]
    parts = [_told_apart(runs) if titles.count(runs.title) > 1 else runs for runs in parts]
    for name in paired(wanted.flags):
        if name not in taken | {"model"}:
            raise UsageError(f"{flag_of(name)}: no column of {item.id} takes it")
    return parts


def _told_apart(runs: PartRuns) -> PartRuns:
    """The part named by what it stands for, too: several are of one network and data set once they are reduced."""
    part = runs.part
    name = f"{runs.title} for {part.name or f'{part.model}, {DATASETS[part.dataset].title}'}"
    return runs._replace(part=part._replace(name=name))


def notes_of(parts: Sequence[PartRuns]) -> list[str]:
    """What is to be told of all parts, once; what is of some alone, with their titles."""
    titles: dict[str, list[str]] = {}
    for runs in parts:
        for note in runs.notes:
            titles.setdefault(note, []).append(runs.title)
    return [note if len(of) == len(parts) else f"{', '.join(of)}: {note}" for note, of in titles.items()]


def without_training(item: Item) -> bool:
    """Whether all that an item shows is known before anything is trained."""
    values = {value for part in item.parts for cell in part.printed.values() for value in cell}
    claims = any(part.claims or part.analyses for part in item.parts)
    return bool(values) and not claims and all(v.startswith(_UNTRAINED) or v in _COUNTED for v in values)


def _part(item: Item, part: Part, wanted: Wanted) -> tuple[PartRuns, set[str]]:
    small = part.small if wanted.scale == "small" else Small("", "")
    changed = paired(wanted.flags)
    seeds = wanted.num_seeds or (small.num_seeds if wanted.scale == "small" else item.num_seeds)
    chosen = [each for each in part.columns if not small.columns or each.name in small.columns]
    dataset = wanted.dataset or small.dataset or part.dataset
    common = _fitting(dataset, paired(part.flags.split()) | paired(small.flags.split()), "model" in changed)
    model = changed.get("model") or [f"--model={small.model or part.model}"]
    asked = Asked(
        dataset=dataset,
        columns=[*([DENSE] if part.dense else []), *(_column(each, part, small, changed) for each in chosen)],
        sparsities=small.sparsities or part.sparsities,
        seeds=range(wanted.seed, wanted.seed + seeds),
        flags={"model": model} | common | changed,
        sanity=",".join(part.sanity),
        strict=False,
    )
    expanded = expand(asked, lambda config, column, sparsity: _place(wanted.root, config))
    return PartRuns(part, expanded.combinations, _notes(part, small, wanted) + expanded.notes), set(expanded.taken)


def _fitting(dataset: str, flags: Flags, other_network: bool) -> Flags:
    """The flags without those about images that another data set has no use for, or not enough images, and without
    variants of the network where that is another."""
    row = DATASETS[dataset]
    idle = {name for name in Source._fields if name not in row.flags}
    size = flags.get("train_examples", ["0"])[-1].partition("=")[2]
    if size.isdigit() and isinstance(row.facts, Facts) and int(size) > row.facts.num_train:
        idle.add("train_examples")
    return {
        name: args
        for name, args in flags.items()
        if name not in idle and not (other_network and name.startswith("network."))
    }


def _column(each: papers.Column, part: Part, small: Small, changed: Flags) -> Column:
    """A column with its flags as the scale and what is typed change them; a reduction adds no finetuning."""
    made = column(each.name, each.flags)
    later = paired(small.flags.split())
    if _tunes_nothing(made, part):
        later["finetune_epochs"] = ["--finetune-epochs=0"]
    flags = made.flags | {name: args for name, args in later.items() if name in (*made.flags, "finetune_epochs")}
    flags |= paired(each.small.split()) if small.flags else {}
    flags |= {name: args for name, args in changed.items() if name in flags}
    own = made.sparsities
    if own is not None and small.sparsities:
        own = tuple(one for one in own if one in small.sparsities) or own[:1]
    return made._replace(flags=flags, sparsities=own)


def _tunes_nothing(made: Column, part: Part) -> bool:
    """Whether the paper has no finetuning there."""
    typed = made.flags.get("finetune_epochs") or paired(part.flags.split()).get("finetune_epochs")
    if typed:
        return typed[-1].rpartition("=")[2] == "0"
    sparsity = float((made.sparsities or part.sparsities)[0])
    return lookup(made.pruner, part.model, part.dataset, sparsity).values.get("finetune_epochs") == 0


def _notes(part: Part, small: Small, wanted: Wanted) -> tuple[str, ...]:
    lines = (f"small scale: {small.says}",) if small.says else ()
    lines += tuple(wanted.chosen.told())
    changes = [f"--dataset={wanted.dataset}"] if wanted.dataset else []
    changes += [spelled({name: args}) for name, args in paired(wanted.flags).items()]
    if changes:
        lines += (f"changed: {' '.join(changes)}",)
        lines += ("what is changed takes the place of the small scale's",) if small.says else ()
    models = paired(wanted.flags).get("model", [f"--model={part.model}"])
    if wanted.dataset not in (None, part.dataset) or models[-1] != f"--model={part.model}":
        lines += ("not the paper's data set or network: verdicts tell how far apart the numbers are, no more",)
    return lines


def _place(root: Path, config: Config) -> Path:
    """The folder of a run, by its configuration: items whose runs are the same share them."""
    return root / "runs" / f"{config.dataset}-{config.pruner}-{digest(fields_of(config))}"


def item_folder(item: Item, wanted: Wanted) -> Path:
    """Where the tables and figures of an item go: one folder for each change of its recipe and each choice."""
    changes = [arg for name, args in sorted(paired(wanted.flags).items()) if name not in FREE for arg in args]
    changes += [wanted.dataset] if wanted.dataset else []
    for kind, names in wanted.chosen._asdict().items():
        changes += [f"{kind} {name}" for name in sorted(set(names))]
    own = hashlib.sha256(" ".join(changes).encode()).hexdigest()[:8] if changes else ""
    return wanted.root / "-".join(filter(None, (item.id, wanted.scale, own)))
