"""Every notebook runs from top to bottom at smoke size, and what it prints is true."""

import copy
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from rare_gems import masks
from rare_gems.data import cifar
from tests.data import tiny

ROOT = Path(__file__).parents[2]
NOTEBOOKS = {path.stem: nbformat.read(path, as_version=4) for path in sorted((ROOT / "notebooks").glob("*.ipynb"))}
# What a notebook defines is its own. The clone is not installed, as on Colab. Figures are one dot: other tests draw.
BEGIN = """%reset -f
import os
from importlib import metadata
metadata.version = lambda name, old=metadata.version: old(name if name != "rare_gems" else "not there")
from rare_gems.reports import run_figures, style
os.chdir({folder!r})
run_figures.save = lambda figure, path, style=style: style.save(style.new_figure(0.1, 0.1), path)
del metadata, os, run_figures, style"""


@pytest.fixture
def printed(tmp_path, monkeypatch):
    """What each notebook prints. One kernel runs them all, since JAX takes long to import; it has two devices."""
    archive = tmp_path / "tiny.tar.gz"
    digest = tiny.make_archive(archive, tiny.cifar10_files(), "cifar-10-batches-bin")  # twelve images
    cifar.prepare_cifar10(tmp_path, url=archive.as_uri(), sha256=digest)
    own = {"RARE_GEMS_SMOKE": "1", "PYTHONPATH": str(ROOT), "TFDS_DATA_DIR": str(tmp_path), "JAX_NUM_CPU_DEVICES": "2"}
    for name, value in own.items():
        monkeypatch.setenv(name, value)
    cells, parts = [], {}
    for name, notebook in copy.deepcopy(NOTEBOOKS).items():  # its cells take the outputs
        (tmp_path / name).mkdir()
        begin = nbformat.v4.new_code_cell(BEGIN.format(folder=str(tmp_path / name)))
        parts[name] = [cell for cell in notebook.cells if cell.cell_type == "code"]
        cells += [begin, *parts[name]]
    whole = nbformat.v4.new_notebook(cells=cells)
    NotebookClient(whole, timeout=300, kernel_name="python3").execute()
    return {name: "\n".join(map(_text, part)) for name, part in parts.items()}


def _text(cell):
    texts = [output.get("text") or output.get("data", {}).get("text/plain", "") for output in cell.outputs]
    return re.sub(r"\x1b\[[\d;]*m", "", "".join(texts))


def _number(pattern, text):
    """The one number that stands where the pattern has its group; commas in it do not count."""
    (found,) = re.findall(pattern, text, re.MULTILINE)
    return float(found.replace(",", ""))


def test_every_notebook_runs_and_prints_the_truth(printed):
    assert all("JAX " in text and ": 2 x cpu (cpu)" in text for text in printed.values())
    _first_ticket(printed["first_ticket"])
    _masks_in_your_network(printed["masks_in_your_network"])
    _write_a_method(printed["write_a_method"])
    _is_it_a_lottery_ticket(printed["is_it_a_lottery_ticket"])


def _first_ticket(text):
    for name in ("GEM-MINER", "its mask shuffled within each layer", "random mask"):
        assert _number(rf"^{name} +([\d,]+) +[\d.]+ % +[\d.]+ %$", text) == 25_100  # half of 50,200
    assert re.search(r"gem_miner +50\.00 +50\.00 +(5\d\.\d\d +)?476,300", text)  # CIFAR-10, half of 952,600; effective
    assert "2 seeds on 2 device(s), each keeps 25,100 weights" in text
    assert text.count("<IPython.core.display.Image object>") == 3


def _masks_in_your_network(text):
    kept = masks.count_for(66_320, 0.9)
    assert f"{kept:,} of 66,320 weights are kept, sparsity 0.9000" in text
    assert sum(int(n.replace(",", "")) for n in re.findall(r"^  \w+/kernel +([\d,]+) of", text, re.MULTILINE)) == kept
    assert re.search(rf"^all +{kept:,} +66,320 +90.00 %$", text, re.MULTILINE)
    linen, again, nnx = (float(n) for n in re.findall(r"^test accuracy .*?([\d.]+) %", text, re.MULTILINE))
    assert min(linen, nnx) > 30  # chance is 10
    assert again == linen
    assert _number(r"^[\d,]+ bytes, ([\d,]+) weights kept$", text) == kept
    for claim in ("nothing but zeros is removed", "the same mask", "equal outputs"):
        assert f"{claim}: True" in text


def _write_a_method(text):
    laws = text.split("35 of 176 weights are kept, removed ones stay zero\n")[1].split("refused: ")[0]
    assert "masks are the same on a mesh of 2 device(s)" in laws
    assert len(laws.split("\n")) == 7  # five more laws hold, and a cell ends
    assert "refused: kept at the end: 18" in text  # a tenth of 176
    kept = masks.count_for(64 * 300 + 300 * 10, 0.95)
    assert re.findall(r"^(growth|magnitude at the start|random) +([\d,]+) +[\d,]+ +[\d.]+ %$", text, re.MULTILINE) == [
        (name, f"{kept:,}") for name in ("growth", "magnitude at the start", "random")
    ]


def _is_it_a_lottery_ticket(text):
    assert re.search(r"^shuffle +falls by +-?[\d.]+ points: (passes|fails|undecided)$", text, re.MULTILINE)
    layers = re.findall(r"^linear\d/kernel +([\d,]+) +0\.\d+ +\d+ of (\d+)$", text, re.MULTILINE)
    assert [units for _, units in layers] == ["300", "100", "10"]
    assert sum(int(kept.replace(",", "")) for kept, _ in layers) == 25_100
    found = re.search(r"overlap of two seeds ([\d.]+), by chance ([\d.]+)", text)
    assert float(found[1]) == pytest.approx(float(found[2]), abs=0.02)
    paths = re.findall(r"^seed-\d+ +keeps 25,100 weights, ([\d,]+) of them on a path$", text, re.MULTILINE)
    assert len(paths) == 2
    assert all(20_000 < int(alive.replace(",", "")) <= 25_100 for alive in paths)  # of experiments.analyse
    assert re.search(r"^weights kept +25,100$", text, re.MULTILINE)  # the table of the comparison
    rows = re.findall(r"^GEM-MINER +\S.* paper +(\S+)  ours +(\S+)  (\w+)$", text, re.MULTILINE)
    assert len(rows) == 20  # Table 8 of Rare Gems v1: four hyper-parameters at five sparsities
    assert all(paper == ours and verdict == "reproduced" for paper, ours, verdict in rows)
    assert text.count("<IPython.core.display.Image object>") == 3


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_notebooks_are_valid_small_and_at_home_anywhere(name):
    text = (ROOT / "notebooks" / f"{name}.ipynb").read_text()
    nbformat.validate(nbformat.reads(text, as_version=4))
    assert len(text) < 400_000
    assert re.findall(r"(?<![\w./:}-])(?:/[\w.-]+){2,}|[A-Z]:\\\\", _without_images(name)) == []
    assert str(Path.home()) not in text
    assert NOTEBOOKS[name].cells[1].source.startswith('CLONE = ""  # the address of your clone')
    assert all(cell.outputs or "print" not in cell.source for cell in NOTEBOOKS[name].cells if cell.cell_type == "code")
    for link in re.findall(r"\]\(([^)\s#]+)", text):
        assert (ROOT / "notebooks" / link).exists(), link


def _without_images(name):
    """Sources and printed outputs; pixels are letters, in which anything may stand."""
    cells = NOTEBOOKS[name].cells
    return "\n".join(cell.source + (_text(cell) if cell.cell_type == "code" else "") for cell in cells)
