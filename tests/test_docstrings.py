"""Every public function has a docstring, and every example in one runs and is right."""

import doctest
import importlib
import inspect
import pkgutil

import jax
import pytest

import experiments
import rare_gems

FLAGS = doctest.NORMALIZE_WHITESPACE
MODULES = [
    name
    for package in (rare_gems, experiments)
    for name in (package.__name__, *(m.name for m in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")))
    if not name.endswith("__main__")
]
COMMANDS = [name for name in MODULES if name.count(".") == 1 and name.startswith("experiments.")]  # nothing to import


def public(module):
    return {name: getattr(module, name) for name in getattr(module, "__all__", [])}


def is_documented_kind(value):
    """Functions (also inside custom_jvp or jit) and classes, not constants and type aliases."""
    return inspect.isclass(value) or inspect.isroutine(inspect.unwrap(value)) or isinstance(value, jax.custom_jvp)


def examples_of(module):
    """The module's own doctests, with those of wrapped functions, which doctest's finder may overlook."""
    finder = doctest.DocTestFinder(exclude_empty=True)
    tests = {test.name: test for test in finder.find(module, module.__name__)}
    for name, value in public(module).items():
        full = f"{module.__name__}.{name}"
        if full not in tests and is_documented_kind(value) and getattr(value, "__module__", "") == module.__name__:
            text = inspect.getdoc(value) or ""
            tests[full] = doctest.DocTestParser().get_doctest(text, dict(vars(module)), full, module.__file__, 0)
    return [test for test in tests.values() if test.examples]


def test_all_modules_are_found():
    assert {
        "rare_gems.masks",
        "rare_gems.ste",
        "rare_gems.pruners.gem_miner",
        "rare_gems.models.resnet",
    } <= set(MODULES)


@pytest.mark.parametrize("name", MODULES)
def test_public_names_are_documented(name):
    module = importlib.import_module(name)
    assert module.__doc__
    assert name in ("rare_gems", *COMMANDS) or hasattr(module, "__all__") or hasattr(module, "__path__")
    assert list(public(module)) == [n for n in public(module) if not n.startswith("_")]
    missing = [n for n, value in public(module).items() if is_documented_kind(value) and not inspect.getdoc(value)]
    assert missing == []


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    module = importlib.import_module(name)
    failures = []
    for test in examples_of(module):
        runner = doctest.DocTestRunner(verbose=False, optionflags=FLAGS)
        report = []
        outcome = runner.run(test, out=report.append)
        if outcome.failed:
            failures.append("".join(report))
    assert not failures, "\n".join(failures)


def test_there_are_examples():
    counts = {name: sum(len(t.examples) for t in examples_of(importlib.import_module(name))) for name in MODULES}
    assert sum(counts.values()) >= 60, counts
    for name in [
        "masks",
        "selection",
        "ste",
        "views",
        "transforms",
        "schedules",
        "keep_ratios",
        "pruners.gem_miner",
    ]:
        assert counts[f"rare_gems.{name}"] > 0, name


def test_a_wrong_example_would_fail():
    wrong = doctest.DocTestParser().get_doctest(">>> 1 + 1\n3\n", {}, "wrong", None, 0)
    outcome = doctest.DocTestRunner(verbose=False).run(wrong, out=lambda text: None)
    assert outcome.failed == 1
