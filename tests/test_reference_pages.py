"""The reference pages: pdoc renders every module, every public name is on its page, cross-references lead somewhere."""

import importlib
import inspect
import re

import pdoc
import pdoc.render
import pytest

import rare_gems
from tests.test_docstrings import MODULES, public

# What a dotted name in backticks may begin with, and is then one of ours.
OURS = {part for name in MODULES for part in name.split(".")}
FILE_ENDINGS = (".json", ".csv", ".safetensors", ".png", ".py")
REFERENCE = re.compile(r"`([A-Za-z_]\w*(?:\.\w+)+)(?:\(.*?\))?`")


def docstrings(name):
    module = importlib.import_module(name)
    values = [module, *public(module).values()]
    values += [method for value in public(module).values() if inspect.isclass(value) for method in vars(value).values()]
    return [text for text in (getattr(value, "__doc__", None) for value in values) if isinstance(text, str)]


@pytest.fixture(scope="module")
def targets():
    """All that a reference may name: modules, what they hold, and fields and methods of that."""
    found = set(MODULES)
    for name in MODULES:
        for entry, value in vars(importlib.import_module(name)).items():
            found.add(f"{name}.{entry}")
            if inspect.isclass(value):
                found |= {f"{name}.{entry}.{field}" for field in (*vars(value), *getattr(value, "__annotations__", {}))}
    return found


def broken(text, targets):
    names = [match[1] for match in REFERENCE.finditer(text)]
    references = [name for name in names if name.split(".")[0] in OURS and not name.endswith(FILE_ENDINGS)]
    return [one for one in references if not any(target == one or target.endswith(f".{one}") for target in targets)]


@pytest.mark.parametrize("name", MODULES)
def test_cross_references_lead_somewhere(name, targets):
    assert [reference for text in docstrings(name) for reference in broken(text, targets)] == []


def test_a_broken_reference_would_be_found(targets):
    assert broken("see `masks.keep_top` and `masks.keep_bottom`", targets) == ["masks.keep_bottom"]


def test_pages(tmp_path):
    pdoc.render.configure(show_source=False)  # highlighting takes longer than all else
    pdoc.pdoc("rare_gems", "experiments", output_directory=tmp_path)
    for name in MODULES:
        page = tmp_path / f"{name.replace('.', '/')}.html"
        text = page.read_text()
        missing = [entry for entry in public(importlib.import_module(name)) if f'id="{entry}"' not in text]
        assert missing == [], name


def test_the_first_page_leads_to_a_page_with_an_example_for_each_question():
    rows = re.findall(r"^\| ([^|]*\?) \| `(rare_gems\.\w+)` \|$", rare_gems.__doc__, re.MULTILINE)
    assert len(rows) >= 7
    for question, name in rows:
        assert "\n  >>> " in importlib.import_module(name).__doc__, question
