"""The benchmarks run at a small size and print what they promise."""

import re

import pytest

from experiments.bench.__main__ import main


def test_select(capsys):
    assert main(["select", "--sizes", "resnet20", "--repeats=2", "--sort-repeats=1"]) == 0
    line = capsys.readouterr().out.splitlines()[-1].split()
    top, sort, ratio = map(float, line[2:5])
    assert ratio == pytest.approx(sort / top, rel=0.05)
    assert int(line[5].replace(",", "")) <= int(line[7].replace(",", ""))  # no temporary larger than the scores


def test_step(capsys):
    assert main(["step", "--batch-size=2", "--image-size=8", "--repeats=1", "--give-back-memory"]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"gem_miner: median +[\d.]+ ms", shown)
    assert re.search(r"ratio: median [\d.]+, min [\d.]+ \(target at most 1.10", shown)


def test_unknown_benchmark(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["speed"])
    assert stop.value.code == 2
    assert "select" in capsys.readouterr().err
