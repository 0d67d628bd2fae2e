"""--help: the flags that matter and the chosen method's options; --help-all: everything, as tyro prints it."""

import ast
import dataclasses
import inspect
import textwrap
import types
import typing
from pathlib import Path
from typing import Annotated, Any

import tyro

from experiments.catalog.networks import NETWORKS
from experiments.catalog.pruners.table import PRUNERS
from experiments.config.config import Config
from experiments.config.flag_names import flag_of
from experiments.config.flags import read_flags
from experiments.config.parse import config_type, default_config
from experiments.config.validate import why_unused
from experiments.presets.lookup import usual_pruner

__all__ = ["print_help"]

_GROUPS = {
    "what to find": ("pruner", "model", "sparsity", "prunable", "dense", "sanity"),
    "training": (
        "epochs", "finetune_epochs", "batch_size", "learning_rate", "finetune_learning_rate", "weight_decay", "seed",
        "data_seed", "num_seeds",
    ),
    "pre-trained weights": ("pretrained", "replace_classifier", "allow_missing", "allow_unexpected"),
    "data": ("data_dir", "train_examples", "validation_examples"),
    "output": ("run_dir", "dry_run", "for_"),
    "devices": ("at_once", "devices", "precision"),
}  # fmt: skip
_WIDTH, _COLUMN = 118, 48


def print_help(dataset: str, args: list[str]) -> bool:
    """Prints what the command line asks for, if that is help; returns whether it did.

    Raises:
      UsageError: for an unknown method or a sparsity that is none.
    """
    if "--help-all" in args:
        _print_all(dataset)
        return True
    if not {"-h", "--help"} & set(args):
        return False
    config = default_config(dataset, args)
    print(f"usage: python -m experiments.{dataset} [--FLAG=VALUE ...]\n")
    purpose = (inspect.getdoc(Config) or "").splitlines()[0]
    print(_wrapped(f"{purpose} [Values] are those of the preset.", ""))
    told = _documented()
    usable = dataclasses.replace(config, pretrained=Path("FILE"), dry_run=True)  # so that what goes with them is shown
    for title, names in _GROUPS.items():
        print(f"\n{title}:")
        for name in names:
            if why_unused(usable, name) is None and _is_taken(config, name):
                print(_line(flag_of(name), _kind(Config, name), _flat(told[name]), getattr(config, name)))
    own = dataclasses.fields(config.options)
    print(f"\nof {config.pruner} ({config.method.what}):" if own else f"\n{config.pruner} has no options of its own")
    for field in own:
        hint = typing.get_type_hints(type(config.options), include_extras=True)[field.name]
        text = next(argument.help for argument in hint.__metadata__)
        flag, value = flag_of(f"{config.pruner}.{field.name}"), getattr(config.options, field.name)
        print(_line(flag, _spelled(hint.__origin__), _flat(text), value))
    print("\n" + _wrapped(", ".join(PRUNERS), "methods: ") + "\n" + _wrapped(", ".join(NETWORKS), "networks: "))
    told = "--help-all: every flag, also --training.* and --finetune.* (how weights train)."
    print(f"\n--pruner=NAME --help: its options. {told}")
    return True


def _is_taken(config: Config, name: str) -> bool:
    """Whether the data set and the method have a use for it."""
    if name in config.source._fields:
        return name in config.data.flags
    return name != "sanity" or config.method.removes


def _line(flag: str, kind: str, text: str, value: Any) -> str:
    """One line for a flag, with its value in brackets; what does not fit is left to --help-all."""
    shown = "" if value is None or value == "" or value is False else f" [{value}]"
    if kind == "" and value:  # a switch that is on
        group, dot, name = flag.removeprefix("--").rpartition(".")
        flag = f"--{group}{dot}[no-]{name}"
    line = f"  {f'{flag} {kind}':<{_COLUMN}} "
    room = _WIDTH - len(line) - len(shown)
    return line + (text if len(text) <= room else textwrap.shorten(text, room, placeholder=" ...")) + shown


def _wrapped(text: str, start: str) -> str:
    return textwrap.fill(text, _WIDTH, initial_indent=start, subsequent_indent="  " if start else "")


def _flat(text: str) -> str:
    return " ".join(text.split())


def _documented() -> dict[str, str]:
    """The docstring of each field of `Config`, which stands below it."""
    (node,) = ast.parse(textwrap.dedent(inspect.getsource(Config))).body
    assert isinstance(node, ast.ClassDef)
    pairs = zip(node.body, node.body[1:], strict=False)
    return {
        field.target.id: str(text.value.value)
        for field, text in pairs
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)
    }  # fmt: skip


def _kind(cls: type, name: str) -> str:
    return {"pruner": "NAME", "model": "NAME"}.get(name) or _spelled(typing.get_type_hints(cls)[name])


def _spelled(hint: Any) -> str:
    """A type as in usage lines: INT, FLOAT|None, a|b."""
    if typing.get_origin(hint) is typing.Literal:
        return "|".join(map(str, typing.get_args(hint)))
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return "|".join(_spelled(one) for one in typing.get_args(hint) if one is not type(None))
    return "" if hint is bool else hint.__name__.upper()


def _everything() -> type:
    """`Config` with the options of every method."""
    groups = [
        (name, Annotated[row.options, tyro.conf.arg(name=name)], dataclasses.field(default=row.options()))
        for name, row in PRUNERS.items()
        if dataclasses.fields(row.options)
    ]
    hidden = ("options", Annotated[Any, tyro.conf.Fixed, tyro.conf.Suppress], None)
    known = {"__doc__": Config.__doc__}
    return dataclasses.make_dataclass(
        "Everything",
        [hidden, *groups],
        bases=(config_type("dense"),),
        frozen=True,
        namespace=known,
    )


def _print_all(dataset: str) -> None:
    kind = _everything()
    try:
        read_flags(
            kind,
            ["--help"],
            f"python -m experiments.{dataset}",
            default=kind(dataset=dataset, pruner=usual_pruner(Config.model, dataset)[0]),
        )
    except SystemExit:  # of tyro, after the help
        return
