"""--sweep.FIELD=A,B,...: lists of values, each combination the run that its own command would be."""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

from experiments.catalog.pruners.options import as_dict
from experiments.catalog.training import GROUPS
from experiments.config.config import Config
from experiments.config.flags import field_of
from experiments.config.parse import parse
from experiments.config.saved import FREE
from experiments.terminal.errors import UsageError

__all__ = ["Combination", "expand", "spelled"]

_FLAG = "--sweep."


class Combination(NamedTuple):
    """One combination: its configuration, the sources of its values, and what was swept, {flag: value as typed}."""

    config: Config
    sources: dict[str, str]
    swept: dict[str, str]


def expand(dataset: str, args: Sequence[str]) -> list[Combination]:
    """The configurations of a command line: one, or one for each combination of the listed values.

    A combination's configuration is that of the command with --FIELD=VALUE in place of the lists, presets included;
    with --run-dir its folder is one in it.

    Raises:
      UsageError: for unknown fields, empty lists, values given twice, and whatever its own command refuses.
    """
    rest, lists = _split(args)
    if not lists:
        return _checked([Combination(*parse(dataset, rest), {})])
    typed = {field_of(arg) for arg in rest if arg.startswith("--")}
    model = [f"--model={lists['model'][0]}"] if "model" in lists else []
    base, told = parse(dataset, [*rest, *model], all_used=False, swept=[name.replace("-", "_") for name in lists])
    if "pruner" not in typed:  # one method for all
        rest = [f"--pruner={base.pruner}", *rest]
    fields = [_field(name, base) for name in lists]
    for name, field in zip(lists, fields, strict=True):
        if field in typed:
            raise UsageError(f"{_FLAG}{name}: the same field as --{_dashed(field)}; expected one of the two")
        if fields.count(field) > 1:
            raise UsageError(f"{_FLAG}{name}: expected one list for a field, got several")
    combinations = []
    for values in itertools.product(*lists.values()):
        swept = dict(zip(map(_dashed, fields), values, strict=True))
        own = [_flag(field, value, base) for field, value in zip(fields, values, strict=True)]
        config, sources = parse(dataset, [*rest, *own])
        sources["pruner"] = told["pruner"]
        if config.run_dir is not None:
            place = "_".join(f"{name}-{value}".replace("/", "-") for name, value in swept.items())
            config = dataclasses.replace(config, run_dir=config.run_dir / place)
        combinations.append(Combination(config, sources, swept))
    return _checked(combinations)


def _checked(combinations: list[Combination]) -> list[Combination]:
    places = [combination.config.run_dir for combination in combinations]
    for place in places:
        if place is not None and places.count(place) > 1:
            raise UsageError(f"--run-dir: the folder {place} is that of two combinations; expected values that differ "
                             'in more than "/" and "-"')  # fmt: skip
    config = combinations[0].config
    if config.at_once is not None and config.at_once > (num := len(combinations) * config.num_seeds):
        raise UsageError(f"--at-once: expected at most the {num} runs that there are, got {config.at_once}")
    return combinations


def _split(args: Sequence[str]) -> tuple[list[str], dict[str, list[str]]]:
    """The other arguments, and {field as typed: values}."""
    rest: list[str] = []
    lists: dict[str, list[str]] = {}
    left = iter(args)
    for arg in left:
        if not arg.startswith(_FLAG):
            rest.append(arg)
            continue
        name, equals, text = arg.removeprefix(_FLAG).partition("=")
        text = text if equals else next(left, "")
        values = [value.strip() for value in text.split(",") if value.strip()]
        if not values or text.startswith("--"):
            raise UsageError(f"{_FLAG}{name}: expected values, separated by commas, got none")
        if len({_number(value) for value in values}) < len(values):
            raise UsageError(f"{_FLAG}{name}: expected different values, got {text}")
        if name in lists:
            raise UsageError(f"{_FLAG}{name}: expected one list, got several")
        lists[name] = values
    return rest, lists


def _number(value: str) -> Any:
    try:
        return float(value)
    except ValueError:
        return value


def _field(name: str, base: Config) -> str:
    """The field of a name as typed: a common one, or one of the pruner's, with or without its name before it."""
    field = name.replace("-", "_")
    options = as_dict(base.options)
    common = {f.name for f in dataclasses.fields(Config)}
    common -= {*FREE, *GROUPS, "dataset", "network", "options", "seed", "pruner", "sanity"}
    known = {name: name for name in common}
    known |= {f"{group}.{name}": f"{group}.{name}" for group in ("network", *GROUPS)
              for name in vars(getattr(base, group))}  # fmt: skip
    known = (
        {o: f"{base.pruner}.{o}" for o in options}
        | {f"{base.pruner}.{o}": f"{base.pruner}.{o}" for o in options}
        | known
    )
    if field in known:
        return known[field]
    hint = " (seeds: --num-seeds)" if field in ("seed", "num_seeds") else ""
    some = ["sparsity", "learning_rate", "finetune_learning_rate", "weight_decay", *options]
    raise UsageError(
        f"{_FLAG}{name}: expected a field of a run of {base.pruner}, such as {', '.join(map(_dashed, some))}, "
        f"got {name}{hint}"
    )


def _flag(field: str, value: str, base: Config) -> str:
    group, _, option = field.rpartition(".")
    groups = {"": base, base.pruner: base.options} | {name: getattr(base, name) for name in ("network", *GROUPS)}
    present = getattr(groups[group], option)
    if isinstance(present, bool):
        if value.lower() not in ("true", "false"):
            raise UsageError(f"{_FLAG}{_dashed(field)}: expected true or false, got {value}")
        name = f"{group}.no-{option}" if group else f"no-{option}"
        return f"--{_dashed(field if value.lower() == 'true' else name)}"
    return f"--{_dashed(field)}={value}"


def _dashed(field: str) -> str:
    return field.replace("_", "-")


def spelled(swept: dict[str, str]) -> str:
    """What a combination is called in tables: "l2 1e-5, sparsity 0.95"."""
    return ", ".join(f"{name.rpartition('.')[2]} {value}" for name, value in swept.items())
