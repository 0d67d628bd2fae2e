"""The rooms of the house: nothing imports upwards, in a circle, or inside a function to escape a circle."""

import ast
import graphlib
from pathlib import Path

ROOT = Path(__file__).parent.parent
ROOMS = (  # each may import from itself and from those before it
    "rare_gems", "rare_gems.training", "rare_gems.storage", "rare_gems.reports", "rare_gems.data", "rare_gems.models",
    "rare_gems.analysis", "rare_gems.pruners.parts", "rare_gems.pruners", "rare_gems.sparse", "experiments.terminal",
    "experiments.catalog.pruners",
    "experiments.catalog", "experiments.presets", "experiments.papers", "experiments.config", "experiments.distributed",
    "experiments.run_folder", "experiments.problem", "experiments.analyses", "experiments.training",
    "experiments.compiled",
    "experiments.cluster", "experiments.comparison", "experiments.reproduction", "experiments.commands",
    "experiments.bench", "experiments",
)  # fmt: skip
# What a command imports once signals are handled, or only where it is asked for.
LATE = {"experiments.commands.program", "experiments.__main__"}
FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for package in ("rare_gems", "experiments")
    for path in sorted((ROOT / package).rglob("*.py"))
}


def imported(nodes):
    """The modules of ours that import statements among the nodes name."""
    for node in nodes:
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in FILES else node.module for name in names]
        yield from (name for name in names if name in FILES)


TREES = {name: ast.parse(path.read_text()) for name, path in FILES.items()}
GRAPH = {name: set(imported(ast.walk(tree))) for name, tree in TREES.items()}


def room(name):
    package = name if FILES[name].name == "__init__.py" else name.rpartition(".")[0]
    return ROOMS.index(package)


def test_nothing_imports_upwards():
    up = [f"{name} imports {other}" for name, others in GRAPH.items() for other in others if room(other) > room(name)]
    assert up == []


def test_no_circle():
    assert len(list(graphlib.TopologicalSorter(GRAPH).static_order())) == len(FILES)  # raises CycleError


def test_no_import_hides_in_a_function():
    hidden = {
        name: inner
        for name, tree in TREES.items()
        if name not in LATE and (inner := set(imported(ast.walk(tree))) - set(imported(tree.body)))
    }
    assert hidden == {}


def test_every_room_says_what_is_in_it():
    silent = [name for name, path in FILES.items() if path.name == "__init__.py" and not ast.get_docstring(TREES[name])]
    assert silent == []


def test_masks_need_jax_and_numpy_only():
    heavy = ("flax", "optax", "orbax", "safetensors", "tensorflow_datasets", "tyro", "rich", "matplotlib")
    light = {
        "rare_gems",
        "rare_gems.keep_top",
        "rare_gems.leaf_names",
        "rare_gems.leaves",
        "rare_gems.mask_counts",
        "rare_gems.masks",
        "rare_gems.prunable",
        "rare_gems.radix_descent",
        "rare_gems.selection",
        "rare_gems.structures",
    }
    for name in light:
        tops = {alias.name for node in ast.walk(TREES[name]) if isinstance(node, ast.Import) for alias in node.names}
        tops |= {node.module for node in ast.walk(TREES[name]) if isinstance(node, ast.ImportFrom)}
        assert not [top for top in tops if top.split(".")[0] in heavy]
        assert GRAPH[name] <= light


def test_no_folder_of_tests_changes_what_others_see():
    """An autouse fixture of a session stays to its end, whoever else runs: below tests/ it has to be of a package."""
    lasting = [
        f"{path.relative_to(ROOT)}: {function.name}"
        for path in (ROOT / "tests").glob("*/**/*.py")
        for function in ast.parse(path.read_text()).body
        if isinstance(function, ast.FunctionDef)
        for call in function.decorator_list
        if "scope='session'" in (given := ast.unparse(call)) and "autouse=True" in given
    ]
    assert lasting == []
