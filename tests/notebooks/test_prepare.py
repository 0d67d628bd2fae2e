"""The first cell: what is there stays, what is too old is refused in one line."""

import importlib.util
import re
import subprocess
import sys
import tomllib
from importlib.machinery import PathFinder
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest

import rare_gems
from notebooks import prepare

ROOT = Path(__file__).parents[2]


@pytest.fixture
def here(monkeypatch):
    """Versions of packages that a test pretends to have, {} at first; pip must not be called."""
    versions = {}
    monkeypatch.setattr(prepare, "_version", lambda name: versions.get(name.partition("[")[0]))
    monkeypatch.setattr(prepare.subprocess, "run", lambda *args, **_: pytest.fail(f"pip was called: {args}"))
    return versions


def _project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_what_is_wanted_is_what_pyproject_says():
    wanted = prepare.requirements(_project(), "experiments")
    project = _project()["optional-dependencies"]
    parts = [project[name] for name in ("train", "models", "data", "interface")]
    assert wanted == list(dict.fromkeys(_project()["dependencies"] + [each for part in parts for each in part]))
    assert all(re.fullmatch(r"[\w.-]+(\[\w+\])?>=[\d.]+", each) for each in wanted)  # all that `satisfied` can read


@pytest.mark.parametrize(
    ("there", "bound", "enough"),
    [("0.9.2", "0.10", False), ("0.10.0", "0.10", True), ("0.10.0rc1", "0.10", True), ("0.11.0.dev2", "0.10", True),
     ("0.10", "0.10.0", True), ("1", "0.10", True), (None, "0.10", False)],
)  # fmt: skip
def test_versions_are_compared_by_their_numbers(here, there, bound, enough):
    here["jax"] = there
    assert prepare.satisfied(f"jax>={bound}") is enough


@pytest.mark.parametrize("package", ["jax", "jaxlib"])
def test_an_older_jax_is_refused_in_one_line_and_left_alone(here, package):
    here |= {"jax": "99.0", "jaxlib": "99.0"} | {package: "0.4.30"}
    with pytest.raises(SystemExit, match=rf"^{package} 0.4.30 is too old: expected {package}>=\S+; it is left") as told:
        prepare.prepare(ROOT)
    assert "\n" not in str(told.value)


def test_nothing_is_installed_where_all_is_there(here, capsys):
    here.update(
        (prepare._name(each).partition("[")[0], "99") for each in prepare.requirements(_project(), "experiments")
    )
    prepare.prepare(ROOT)
    assert re.fullmatch(r"JAX \S+ on this machine: 8 x cpu \(cpu\)\n", capsys.readouterr().out)


def test_the_folder_of_the_clone_is_forgotten_where_it_was_imported_as_the_library(here, monkeypatch, tmp_path):
    here.update(
        (prepare._name(each).partition("[")[0], "99") for each in prepare.requirements(_project(), "experiments")
    )
    (tmp_path / "rare_gems").mkdir()
    folder = importlib.util.module_from_spec(PathFinder.find_spec("rare_gems", [str(tmp_path)]))
    for module, kept in ((folder, False), (rare_gems, True)):
        monkeypatch.setitem(sys.modules, "rare_gems", module)
        prepare.prepare(ROOT)
        assert ("rare_gems" in sys.modules) is kept


def test_pip_gets_what_is_missing_and_may_not_touch_jax(here, monkeypatch):
    wanted = prepare.requirements(_project(), "experiments")
    here.update((prepare._name(each).partition("[")[0], "99") for each in wanted)
    del here["optax"]
    calls = []
    there = prepare.importlib.metadata.distributions
    nameless = SimpleNamespace(
        name=None, version="1", files=(), read_text=lambda file: None
    )  # what an interrupted pip leaves
    monkeypatch.setattr(prepare.importlib.metadata, "distributions", lambda: [*there(), nameless])

    def pip(command, **_):
        (constraints,) = (word.partition("=")[2] for word in command if word.startswith("--constraint="))
        calls.append((command[1:4], command[command.index(f"--constraint={constraints}") + 1 :]))
        pinned = Path(constraints).read_text().splitlines()
        assert {"jax", "jaxlib"} <= {line.partition("==")[0] for line in pinned}
        return prepare.subprocess.CompletedProcess(command, 1, "", "no\nnetwork")

    monkeypatch.setattr(prepare.subprocess, "run", pip)
    with pytest.raises(SystemExit, match=r"^pip failed: no network$"):
        prepare.prepare(ROOT)
    assert calls == [(["-m", "pip", "install"], [each for each in wanted if each.startswith("optax")])]


def test_a_package_that_changed_under_the_session_asks_for_a_restart(here, monkeypatch):
    here["numpy"] = "1"

    def pip(command, **_):
        here["numpy"] = "2"
        return prepare.subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(prepare.subprocess, "run", pip)
    with pytest.raises(SystemExit, match=r"^numpy changed under this session: restart it and run from the top$"):
        prepare._install(["numpy>=2"])


def test_a_command_that_fails_ends_the_cell(capsys):
    with pytest.raises(SystemExit, match=r"^digits: ended with status 2$"):
        prepare.command("digits --prunner=gem_miner")
    (line,) = capsys.readouterr().err.splitlines()
    assert "--pruner" in line


def _first_cell(clone):
    cell = nbformat.read(ROOT / "notebooks" / "first_ticket.ipynb", as_version=4).cells[1].source
    assert cell.startswith('CLONE = ""')
    return cell.replace('CLONE = ""', f"CLONE = {clone!r}", 1)


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A folder outside any clone, of a Python that has not installed the library."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: PathFinder.find_spec(name, [str(tmp_path)]))
    monkeypatch.setattr(prepare, "prepare", lambda root: print(f"prepared {root.relative_to(tmp_path)}"))


def test_the_first_cell_clones_what_its_reader_named(elsewhere, monkeypatch, capsys):
    def git(command, **_):
        assert command[:2] == ["git", "clone"]
        assert command[-2] == "https://example.org/rare_gems"
        prepare_py = Path(command[-1]) / "notebooks" / "prepare.py"
        prepare_py.parent.mkdir(parents=True)
        prepare_py.touch()
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", git)
    Path("rare_gems").mkdir()  # empty: of this name, but no clone
    for _ in range(2):  # the second time it is there
        exec(_first_cell("https://example.org/rare_gems"), {})
        monkeypatch.setattr(subprocess, "run", lambda *args, **_: pytest.fail("cloned twice"))
    assert capsys.readouterr().out == "prepared rare_gems\nprepared rare_gems\n"
    assert sys.path[0] == str(Path.cwd() / "rare_gems")


def test_the_first_cell_runs_again_in_a_restarted_session(tmp_path):
    """In a Python of its own, which has not installed the library, above a clone that only tells what it imports."""
    clone = tmp_path / "rare_gems"
    for name, text in {
        "rare_gems/__init__.py": "",
        "notebooks/prepare.py": (
            "import rare_gems\ndef command(line): ...\ndef prepare(root): print(root, rare_gems.__file__)"
        ),
    }.items():
        (clone / name).parent.mkdir(parents=True)
        (clone / name).write_text(text)
    python = [sys.executable, "-E", "-S", "-c", _first_cell("https://example.org/rare_gems")]
    done = subprocess.run(python, cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout == f"{clone} {clone}/rare_gems/__init__.py\n", done.stderr


def test_the_first_cell_says_in_one_line_what_is_wrong(elsewhere, monkeypatch):
    with pytest.raises(SystemExit, match=r"^CLONE: expected the address of your clone in the first cell, got nothing$"):
        exec(_first_cell(""), {})
    failed = subprocess.CompletedProcess([], 128, "", "fatal: no such\nrepository\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(SystemExit, match=r"^CLONE: fatal: no such repository$"):
        exec(_first_cell("https://example.org/nothing"), {})


def test_the_first_cell_is_the_same_in_all_notebooks():
    cells = [nbformat.read(path, as_version=4).cells[1].source for path in (ROOT / "notebooks").glob("*.ipynb")]
    assert len(cells) == 4
    assert len({cell.replace("import command, prepare", "import prepare") for cell in cells}) == 1
