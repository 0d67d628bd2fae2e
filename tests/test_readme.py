"""The guides tell the truth: Python blocks run, commands parse, links lead somewhere, CI's commands are there."""

import argparse
import contextlib
import importlib
import re
import shlex
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.bench.__main__ import BENCHMARKS
from experiments.catalog.networks import NETWORKS
from experiments.catalog.pruners.table import PRUNERS
from experiments.catalog.sanity_checks import CHECKS
from experiments.commands.analyse import ANALYSES, Analyse
from experiments.commands.evaluate import Evaluate
from experiments.commands.export import Export
from experiments.commands.export_formats import FORMATS
from experiments.commands.overview import overview
from experiments.commands.program import run
from experiments.commands.sanity import Sanity
from experiments.config.flags import read_flags
from experiments.papers.table import ITEMS
from experiments.problem import network
from rare_gems import masks
from rare_gems.phase import Ticket
from rare_gems.storage import ticket_contents, ticket_file
from rare_gems.training import trainer
from tests.experiments.analyses.folders import make_run, mask_of, moved
from tests.toy import make_toy

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
GUIDES = {
    name: (ROOT / name).read_text()
    for name in (
        "README.md", "experiments/README.md", "experiments/bench/README.md", "rare_gems/README.md",
        "rare_gems/analysis/README.md", "rare_gems/sparse/README.md", "rare_gems/storage/README.md",
    )
}  # fmt: skip
CHANGELOG = "rare_gems/CHANGELOG.md"
WRITTEN = GUIDES | {CHANGELOG: (ROOT / CHANGELOG).read_text()}
BLOCKS = [
    (name, language, block)
    for name, text in GUIDES.items()
    for language, block in re.findall(r"```(\w+)\n(.*?)```", text, re.DOTALL)
]
PYTHON = [(name, block) for name, language, block in BLOCKS if language == "python"]


def _commands():
    """Every command of the guides once: lines of bash blocks, and commands in the text that name no placeholder."""
    lines = [line for _, language, block in BLOCKS if language == "bash" for line in block.splitlines()]
    spans = [span for text in GUIDES.values() for span in re.findall(r"`([^`\n]+)`", text)]
    lines += [span for span in spans if not re.search(r"\b[A-Z_]{4,}\b|\.\.\.", span)]
    found = [re.search(r"-m (experiments|rare_gems)\b[^#&]*", line) for line in lines]
    return list(dict.fromkeys(match[0].removeprefix("-m ").strip() for match in found if match))


COMMANDS = _commands()
OTHERS = (
    "experiments.analyse",
    "experiments.reproduce",
    "experiments.sanity",
    "experiments.export",
    "experiments.evaluate",
    "experiments.bench",
    "rare_gems.",
)  # not by --dry-run
TRAINING = [c for c in COMMANDS if c.startswith("experiments.") and not c.startswith(OTHERS) and "runs/imp --" not in c]


WORTH_KNOWING = re.findall(r"^\| [^|`]* \| `(--[^`]*)` \|$", GUIDES["experiments/README.md"], re.MULTILINE)


def _block(name, text):
    (block,) = (block for guide, block in PYTHON if guide == name and text in block)
    return block


def _executed(block, name="README.md"):
    names = {"__name__": "a_guide"}
    exec(compile(block, name, "exec"), names)
    return names


def test_the_readme_is_short():
    assert len(README.encode()) <= 8000


@pytest.mark.parametrize(("name", "block"), PYTHON, ids=[f"{name}-{i}" for i, (name, _) in enumerate(PYTHON)])
def test_python_blocks_run(name, block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if 'Path("ticket.safetensors")' in block:
        ticket_file.save("ticket.safetensors", make_toy().ticket, metadata={"method": "toy", "seed": 0})
    _executed(block, name)


def _ticket(kind):
    """Weights, state and mask: of a dtype, or with what else has a form of its own in a file."""
    some = {"w": np.arange(15).reshape(3, 5) % 4 > 1}
    if kind in ticket_contents.DTYPES:
        weights = np.arange(15).astype(ticket_contents.DTYPES[kind]).reshape(3, 5)
        return {"w": weights}, {"count": weights[2, 4]}, some
    if kind == "one array":
        return np.ones((3, 5)), np.zeros((0, 3), np.int8), some["w"]
    if kind == "keys":
        keys = {"rng": jax.random.key(1), "more": jax.random.split(jax.random.key(2, impl="rbg"), 3)}
        return {"w": np.ones((3, 5)), **keys}, keys, some
    ticket = make_toy().ticket
    return ticket.params, {"seen": np.int32(3)}, masks.keep_top(ticket.scores, 44)


@pytest.mark.parametrize("kind", ["toy", "one array", "keys", *ticket_contents.DTYPES])
def test_the_format_page_reads_a_ticket_with_numpy_alone(kind, tmp_path, monkeypatch):
    params, state, mask = _ticket(kind)
    monkeypatch.chdir(tmp_path)
    ticket_file.save("ticket.safetensors", Ticket(params, None, mask), metadata={"seed": 0}, model_state=state)
    block = _block("rare_gems/storage/README.md", "unpackbits")
    assert len(block.split("\n\n")[1].splitlines()) <= 10
    names = _executed(block)
    groups, header = ticket_file.read("ticket.safetensors")
    assert names["about"] == header
    assert header["num_kept"] == masks.num_kept(mask)
    flat = {f"{group}/{name}" if name else group: a for group, named in groups.items() for name, a in named.items()}
    flat = {name: a.astype(np.float32) if a.dtype == jnp.bfloat16 else a for name, a in flat.items()}
    chex.assert_trees_all_equal(names["arrays"], flat, strict=True)
    page = GUIDES["rare_gems/storage/README.md"]
    assert all(f"`{field}`" in page for field in (*header, *header["layers"][0], *groups))


def test_the_format_page_lists_the_dtypes():
    listed = GUIDES["rare_gems/storage/README.md"].split("\n`dtype` is one of")[1].split("Typed PRNG")[0]
    assert sorted(re.findall(r"`(\w+)`", listed)) == sorted(ticket_contents.DTYPES)


def test_the_method_that_the_readme_writes_trains():
    names = _executed(_block("README.md", "def iterative_magnitude_pruning"))
    toy = make_toy()
    recipe = names["iterative_magnitude_pruning"](masks.num_prunable(toy.ticket.mask), 0.75, num_rounds=2, steps=2)
    assert [phase.num_steps for phase in recipe] == [2, 2]
    ticket, state = trainer.run(
        recipe, toy.ticket, toy.model_state, loss_fn=toy.loss_fn, feed=toy.feed, key=jax.random.key(0)
    )
    assert masks.num_kept(ticket.mask) == 44  # 176 / 4
    assert state["seen"] == 4
    chex.assert_trees_all_equal(ticket.params, masks.apply(toy.ticket.params, ticket.mask))  # rewound


def test_the_method_that_the_guide_contributes_is_a_row_and_trains():
    names = _executed(_block("rare_gems/README.md", "def gradient("), "rare_gems/README.md")
    row = names["ROWS"]["gradient"]
    assert vars(row.options()) == {"batches": 1, "scope": "global"}
    toy = make_toy()
    ticket, state = trainer.run(
        names["gradient"](toy.ticket.mask, sparsity=0.75, batches=2), toy.ticket, toy.model_state,
        loss_fn=toy.loss_fn, feed=toy.feed, key=jax.random.key(0),
    )  # fmt: skip
    masks.check(ticket.mask, 44)
    assert state["seen"] == 0  # as the phase began
    for name in ("first", "last"):
        kept, w = ticket.mask[name]["kernel"], toy.ticket.params[name]["kernel"]
        chex.assert_trees_all_equal(ticket.params[name]["kernel"][kept], w[kept])


@pytest.fixture
def _networks_not_traced_again(monkeypatch):
    """That networks take images of their sizes is tested with the networks."""
    monkeypatch.setattr(network, "_checked", lambda name, model, *_, **__: model)


@pytest.mark.parametrize("command", TRAINING)
@pytest.mark.usefixtures("_networks_not_traced_again")
def test_commands_resolve(command, capsys):
    module, *flags = shlex.split(command)
    name = module.removeprefix("experiments.")
    helps = {"--help", "--help-all"} & set(flags)
    with pytest.raises(SystemExit, match="0") if helps and name == "compare" else contextlib.nullcontext():
        assert run(name, [*flags, "--dry-run"]) == 0
    out = capsys.readouterr().out
    if helps:
        assert "--num-seeds" in out
        return
    usual = "prunable: " if any("--model" in word for word in flags) else "prunable: 268,336 weights in 20 layers"
    compared = "5 runs, " if "@dense" in command else "27 runs" if "--columns" not in command else "4 runs, "
    assert {"compare": compared}.get(name, usual) in out


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("experiments.reproduce")])
@pytest.mark.usefixtures("_networks_not_traced_again")
def test_tables_of_papers_resolve(command, capsys):
    assert "--dry-run" in command or command == "experiments.reproduce"
    assert run("reproduce", shlex.split(command)[1:]) == 0
    out = capsys.readouterr().out
    named = [word for word in shlex.split(command) if word in ITEMS]
    for name in named or ["lottery-jackpots-table-4", "rare-gems-table-3"]:
        assert f"{ITEMS[name].paper}, {ITEMS[name].number}" in out


@pytest.mark.parametrize("flags", WORTH_KNOWING)
@pytest.mark.usefixtures("_networks_not_traced_again")
def test_options_worth_knowing_are_taken(flags, capsys):
    assert run("digits", [*shlex.split(flags), "--dry-run"]) == 0
    assert "kept at the end: 3,864" in capsys.readouterr().out


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("experiments.sanity")])
def test_commands_of_checks_parse(command):
    _, *flags = shlex.split(command)
    asked = read_flags(Sanity, flags, "python -m experiments.sanity")
    assert asked.checks == "all" or set(asked.checks.split(",")) <= set(CHECKS)


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("experiments.analyse")])
def test_commands_of_analyses_parse(command):
    _, *flags = shlex.split(command)
    asked = read_flags(Analyse, flags, "python -m experiments.analyse")
    assert set(asked.what.split(",")) <= set(ANALYSES)
    assert len(asked.runs) > 1


def test_the_ticket_of_another_run_is_trained_again(tmp_path, monkeypatch, capsys):
    (command,) = (c for c in COMMANDS if "--ticket.run=runs/imp" in c)
    monkeypatch.chdir(tmp_path)
    make_run(Path("runs/imp"), ["--pruner=imp"], moved(0), mask_of(1))
    assert run("digits", [*shlex.split(command)[1:], "--dry-run"]) == 0
    assert "kept at the end: 12,550" in capsys.readouterr().out


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("experiments.export")])
def test_commands_of_exports_parse(command):
    _, *flags = shlex.split(command)
    assert read_flags(Export, flags, "python -m experiments.export").to in (*FORMATS, "compact", "seed")


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("experiments.evaluate")])
def test_commands_of_evaluations_parse(command):
    _, *flags = shlex.split(command)
    assert read_flags(Evaluate, flags, "python -m experiments.evaluate").ticket == Path("runs/my-run/seed.json")


class _Parsed(Exception):  # noqa: N818
    """The flags were read."""


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith(("experiments.bench", "rare_gems."))])
def test_commands_with_flags_of_their_own_parse(command, monkeypatch):
    read = argparse.ArgumentParser.parse_args

    def only_read(parser, args=None, namespace=None):
        read(parser, args, namespace)
        raise _Parsed

    module, *flags = shlex.split(command)
    if module == "experiments.bench":
        assert flags[0] in BENCHMARKS
        module = "experiments.bench.__main__"
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", only_read)
    with pytest.raises(_Parsed):
        importlib.import_module(module).main(flags)


def test_every_method_network_and_check_is_named():
    methods = README.split("## Methods")[1].split("\n## ")[0]
    named = re.findall(r"^\| `(\w+)` \|", methods, re.MULTILINE)
    assert (len(named), set(named)) == (len(PRUNERS), set(PRUNERS))
    assert [name for name in (*PRUNERS, *NETWORKS, *CHECKS) if name not in overview()] == []
    checks = GUIDES["experiments/README.md"].split("## Sanity checks")[1].split("\n## ")[0]
    told = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \|", checks, re.MULTILINE)
    assert told
    assert {name for cell in told for name in re.findall(r"\w+", cell)} <= set(CHECKS)  # those that take explaining


@pytest.mark.parametrize("name", WRITTEN)
def test_relative_links_lead_somewhere(name):
    for link in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"```.*?```", "", WRITTEN[name], flags=re.DOTALL)):
        if "://" in link:
            continue
        path, _, heading = link.partition("#")
        target = (ROOT / name).parent / path if path else ROOT / name
        assert target.exists(), link
        headings = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE) if heading else []
        assert not heading or heading in {re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in headings}, link


def test_there_are_blocks_and_commands():
    assert len(TRAINING) >= 5
    assert len(COMMANDS) - len(TRAINING) >= 5
    assert len(PYTHON) >= 5
    assert len(WORTH_KNOWING) == 10
    assert len(re.findall(r"^<!-- command: (digits|tests) -->$", README, re.MULTILINE)) == 2
    for name in ("digits", "tests"):  # as .ci/run finds them: the mark, then a block of one line
        assert re.search(rf"^<!-- command: {name} -->\n```bash\n[^\n]+\n```$", README, re.MULTILINE)
