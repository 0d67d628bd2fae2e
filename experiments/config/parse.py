"""The command line: typed flags, defaults from presets, one-line errors."""

import dataclasses
import functools
import math
import re
import typing
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

import tyro

from experiments.catalog.networks import NETWORKS, NetworkOptions, defaults_of
from experiments.catalog.pruners.table import PRUNERS
from experiments.catalog.training import GROUPS, TrainingOptions
from experiments.config.config import Config
from experiments.config.flag_names import flag_of, no_such_flag
from experiments.config.flags import field_of, read_flags
from experiments.config.lengths import fitted
from experiments.config.saved import fields_of, flat
from experiments.config.validate import check_used, check_values, why_unused
from experiments.presets.lookup import lookup, usual_pruner
from experiments.terminal.errors import UsageError

__all__ = ["config_type", "default_config", "known_fields", "parse"]

PrunerName: Any = Literal[tuple(PRUNERS)]  # type: ignore
ModelName: Any = Literal[tuple(NETWORKS)]  # type: ignore


@dataclasses.dataclass(frozen=True)
class _Choice:
    """The fields that choose a preset."""

    pruner: PrunerName = Config.pruner
    model: ModelName | str = Config.model
    sparsity: float = math.nan  # not typed
    variant: str | None = None


def parse(
    dataset: str, args: list[str], *, all_used: bool = True, swept: Iterable[str] = ()
) -> tuple[Config, dict[str, str]]:
    """The configuration of a command line, and the source of each value in it.

    Args:
      all_used: refuse flags that would be ignored. swept: fields of lists, which say what method is meant, as flags do.

    Raises:
      UsageError: for anything that cannot be read or run.
      SystemExit: with status 0, after --help.
    """
    program = f"python -m experiments.{dataset}"
    typed = {field_of(arg) for arg in args if arg.startswith("--")}
    default, told = _default(dataset, args, program, swept)
    _check_known(default, args)
    _check_switches(default, args)
    config, scaled = fitted(_with_typed(default, args, program), default, typed)
    inherited = {name: told.get(name) or told[f"training.{name.rpartition('.')[2]}"] for name in scaled}
    told = told | {name: f"{inherited[name]}; {note}" for name, note in scaled.items()}
    check_values(config)
    check_used(config, typed if all_used else set())
    sources = {name: "command line" if name in typed else told.get(name, "default") for name in flat(fields_of(config))}
    return config, sources


def default_config(dataset: str, args: list[str]) -> Config:
    """What the preset for the pruner, model and sparsity of a command line says, whatever else is typed.

    Raises:
      UsageError: for an unknown pruner, or a sparsity outside [0, 1).
    """
    return _default(dataset, args, f"python -m experiments.{dataset}")[0]


def known_fields(*pruners: str) -> set[str]:
    """The names of all fields that flags set: common ones, of the network, and of those methods (none: of all)."""
    names = {field.name for field in dataclasses.fields(Config)} - {"dataset", "network", "options", *GROUPS}
    groups = _groups(*pruners or PRUNERS)
    own = {f"{group}.{field.name}" for group, options in groups.items() for field in dataclasses.fields(options)}
    return names | own | {"help", "help_all"}


def _groups(*pruners: str) -> dict[str, type]:
    """The options whose flags have the name of a group before them: of those methods, of the network, of training."""
    own = {name: PRUNERS[name].options for name in pruners}
    return own | {"network": NetworkOptions} | dict.fromkeys(GROUPS, TrainingOptions)


def _check_known(config: Config, args: list[str]) -> None:
    """Refuses flags that there are not, naming the nearest that there is, and options of other methods."""
    known = known_fields(config.pruner)
    typed = {field_of(arg): arg.split("=")[0] for arg in args if arg.startswith("--")}
    for name in sorted(typed.keys() - known):
        group = name.split(".")[0]
        if "." in name and group in PRUNERS and group != config.pruner:
            raise UsageError(why_unused(config, name) or name)
        raise UsageError(no_such_flag(name, known if "pruner" in typed else known_fields(), typed[name]))


def _check_switches(config: Config, args: list[str]) -> None:
    """Refuses --no- before what is no switch, and before the name of a group."""
    values = dataclasses.asdict(config)
    values = flat(values | {config.pruner: values.pop("options")})
    for flag in (arg.split("=")[0] for arg in args):
        if not re.match(r"--(.*\.)?no[-_]", flag):
            continue
        name = field_of(flag)
        group, dot, option = flag_of(name).removeprefix("--").rpartition(".")
        right = f"--{group}{dot}no-{option}" if isinstance(values.get(name), bool) else flag_of(name)
        if flag.replace("_", "-") != right:
            raise UsageError(f"{flag}: there is no such flag; the nearest is {right}")


def _default(dataset: str, args: list[str], program: str, swept: Iterable[str] = ()) -> tuple[Config, dict[str, str]]:
    """The preset for the pruner, model and sparsity of a command line, and the source of each value in it."""
    spans = _by_field(arg for arg in args if arg != "-h")
    choice = _choice(tuple(arg for name, span in spans.items() if name in vars(_Choice()) for arg in span), program)
    why = "command line"
    if "pruner" not in spans:
        owners = {name.split(".")[0] for name in (*spans, *swept) if "." in name} & PRUNERS.keys()
        if len(owners) > 1:
            several = " and ".join(sorted(owners))
            raise UsageError(f"options of {several}: expected those of one method, or --pruner=NAME")
        usual, why = usual_pruner(choice.model, dataset, *owners)
        choice = dataclasses.replace(choice, pruner=usual)
    removes = PRUNERS[choice.pruner].removes
    sparsity = (Config.sparsity if removes else 0.0) if math.isnan(choice.sparsity) else choice.sparsity
    if not 0 <= sparsity < 1:
        raise UsageError(f"--sparsity: expected a fraction removed in [0, 1), got {sparsity}")
    if not removes and sparsity != 0:
        raise UsageError(f"--sparsity: the dense network removes nothing; expected 0 or no flag, got {sparsity}")
    options = _typed_options(choice.pruner, args)
    try:
        preset = lookup(choice.pruner, choice.model, dataset, sparsity, options, variant=choice.variant)
    except ValueError as error:
        raise UsageError(f"--variant: {error}") from None
    named = Config(
        dataset=dataset, pruner=choice.pruner, model=choice.model, sparsity=sparsity, network=defaults_of(choice.model),
        variant=choice.variant,
    )  # fmt: skip
    return _replace(named, preset.values), {"pruner": why, **preset.sources}


def _with_typed(default: Config, args: list[str], program: str) -> Config:
    """The preset's configuration, with what is typed in its place."""
    fields = _by_field(args)
    if {"", "help", "help_all"} & fields.keys() or "-h" in args:
        kind = config_type(default.pruner)
        asked = read_flags(kind, args, program, default=kind(**vars(default)))
        return Config(**{field.name: getattr(asked, field.name) for field in dataclasses.fields(Config)})
    return _replace(default, {field: _value(default.pruner, field, tuple(a), program) for field, a in fields.items()})


def _by_field(args: Iterable[str]) -> dict[str, list[str]]:
    """The arguments of each field; "": those before the first flag."""
    fields: dict[str, list[str]] = {}
    field = ""
    for arg in args:
        field = field_of(arg) if arg.startswith("--") else field
        fields.setdefault(field, []).append(arg)
    return fields


@functools.lru_cache(maxsize=4096)
def _value(pruner: str, field: str, args: tuple[str, ...], program: str) -> Any:
    """What is typed for one field. tyro needs 30 ms for a parser of all of them, and the plan of a figure reads
    hundreds of command lines of the same flags."""
    group, _, name = field.rpartition(".")
    kind = _groups(pruner)[group] if group else config_type(pruner)
    told = tyro.conf.arg(help="-")  # else tyro looks for it in the source
    hint: Any = typing.get_type_hints(kind, include_extras=True)[name]
    one = dataclasses.make_dataclass(
        "Typed", [(name, Annotated[hint, told], getattr(kind, name))], namespace={"__doc__": ""}
    )
    if not group:
        return getattr(read_flags(one, list(args), program), name)
    within = Annotated[one, tyro.conf.arg(name=group, help="-")]
    whole = dataclasses.make_dataclass("Typed", [("group", within, dataclasses.field(default_factory=one))],
                                       namespace={"__doc__": ""})  # fmt: skip
    return getattr(read_flags(whole, list(args), program).group, name)


@functools.lru_cache(maxsize=1024)
def _choice(args: tuple[str, ...], program: str) -> _Choice:
    """What is typed for the fields that choose a preset."""
    return read_flags(_Choice, list(args), program, return_unknown_args=True)[0]


def _typed_options(pruner: str, args: list[str]) -> dict[str, str]:
    """What is typed for the options of a method, unread: --smart-ratio.version=v5 -> {"version": "v5"}."""
    found = {}
    for arg, following in zip(args, [*args, ""][1:], strict=True):
        if arg.startswith("--") and field_of(arg).startswith(f"{pruner}."):
            found[field_of(arg).removeprefix(f"{pruner}.")] = arg.partition("=")[2] or following
    return found


@functools.cache
def config_type(pruner: str) -> type:
    """`Config` as it is typed for one method: its own options under its name, names of methods and networks listed."""
    options = PRUNERS[pruner].options
    return dataclasses.make_dataclass(
        "Typed",
        [
            ("dataset", Annotated[str, tyro.conf.Fixed, tyro.conf.Suppress], dataclasses.field()),
            ("pruner", PrunerName, Config.pruner),
            ("model", ModelName | str, Config.model),
            ("for_", Annotated[str | None, tyro.conf.arg(name="for")], Config.for_),
            ("options", Annotated[options, tyro.conf.arg(name=pruner)], dataclasses.field(default=options())),
        ],
        bases=(Config,),
        frozen=True,
        namespace={"__doc__": Config.__doc__},
    )


def _replace(config: Config, values: Mapping[str, Any]) -> Config:
    """The configuration with some fields replaced, which are named as in presets: "seed", "gem_miner.period"."""

    def within(group: str) -> dict[str, Any]:
        return {name.removeprefix(f"{group}."): value for name, value in values.items() if name.startswith(f"{group}.")}

    return dataclasses.replace(
        config,
        network=dataclasses.replace(config.network, **within("network")),
        training=dataclasses.replace(config.training, **within("training")),
        finetune=dataclasses.replace(config.finetune, **within("finetune")),
        options=dataclasses.replace(config.options, **within(config.pruner)),
        **{name: value for name, value in values.items() if "." not in name},
    )
