"""Every data set by name; image folders in memory and streamed, to the ticket; broken and wrong folders."""

import importlib
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from experiments.catalog.datasets import DATASETS
from experiments.catalog.networks import NETWORKS
from experiments.catalog.pruners.table import PRUNERS
from experiments.catalog.sanity_checks import CHECKS
from experiments.commands import program
from experiments.commands.program import run
from experiments.config.parse import parse
from experiments.config.saved import digest, fields_of
from experiments.problem.data import facts_of
from rare_gems.data.digits import digits

NAMES = ("digits", "mnist", "cifar10", "cifar100", "tiny_imagenet", "caltech101", "imagenet", "folder")
SHORT = [
    "--model=lenet_300_100", "--sparsity=0.5", "--epochs=2", "--finetune-epochs=1", "--gem-miner.period=1",
    "--batch-size=8",
]  # fmt: skip


@pytest.fixture
def images(tmp_path):
    """Two classes, dark and bright, 24 images of 8x8 in train and 6 in test."""
    rng, folder = np.random.default_rng(0), tmp_path / "images"
    for split, count in (("train", 12), ("test", 3)):
        for label, name in enumerate(("dark", "bright")):
            (folder / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(128 * label, 128 * label + 128, (8, 8, 3), np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{i}.png")
    return folder


def test_every_name_is_a_data_set_with_a_module():
    assert set(DATASETS) >= set(NAMES)  # names are a promise
    for name in DATASETS:
        assert importlib.import_module(f"experiments.{name}").program is program.program


def test_what_is_known_of_digits_is_so():
    data = digits()
    facts = facts_of(parse("digits", ["--validation-examples=37"])[0])
    assert facts == ((8, 8, 1), len(data.train.labels) - 37, len(data.test.labels), data.num_classes, 37)


def test_help_lists_networks_and_methods(capsys):
    assert run("folder", ["--help-all"]) == 0
    shown = capsys.readouterr().out
    assert run("folder", ["--help"]) == 0
    short = capsys.readouterr().out
    for word in ("inception_v3", "mobilenet_v2", "module:function", "jackpot", "--skip-broken-images", "--image-size"):
        assert word in shown
    for word in ("inception_v3", "mobilenet_v2", "jackpot", "--data-dir", "--help-all"):
        assert word in short
    named = subprocess.run([sys.executable, "-m", "experiments"], capture_output=True, text=True, check=True).stdout
    assert all(name in named for name in (*DATASETS, *NETWORKS, *PRUNERS, *CHECKS, "compare", "sanity", "bench"))


def test_another_command_of_a_process_looks_at_the_folder_again(images, tmp_path, capsys):
    """Cells of a notebook: once the listing of the first stayed, and a file that was gone was asked for for ever."""
    copy = shutil.copytree(images, tmp_path / "copy")
    flags, shown = [*SHORT, f"--data-dir={copy}"], []
    for _ in range(2):
        assert run("folder", [*flags, "--dry-run"]) == 0
        shown.append((facts_of(parse("folder", flags)[0]).num_classes, capsys.readouterr().out))
        for split in ("train", "test"):
            shutil.copytree(next((copy / split).iterdir()), copy / split / "another class", dirs_exist_ok=True)
    assert [number for number, _ in shown] == [2, 3]
    assert shown[0][1] != shown[1][1]


@pytest.mark.parametrize("flags", [[], ["--stream", "--image-size=8"]], ids=["memory", "stream"])
def test_a_folder_of_images_to_the_ticket(flags, images, tmp_path):
    command = [*SHORT, f"--data-dir={images}", f"--run-dir={tmp_path}/run", "--sanity=random_data,half_data", *flags]
    assert run("folder", command) == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["dataset_name"], summary["num_prunable"]) == ("folder", 192 * 300 + 300 * 100 + 100 * 2)
    assert summary["accuracy"]["after_finetune"] >= 0.5
    assert summary["steps"] == {"search": 6, "finetune": 3}
    half = json.loads((tmp_path / "run" / "sanity" / "half_data" / "summary.json").read_text())
    assert half["steps"] == {"search": 4, "finetune": 3}  # 12 images, two batches of 8


def test_streamed_validation_and_subsets(images, tmp_path):
    command = [*SHORT, f"--data-dir={images}", f"--run-dir={tmp_path}/run", "--stream", "--image-size=8"]
    assert run("folder", [*command, "--validation-examples=4", "--train-examples=16"]) == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["steps"]["search"] == 4
    assert set(summary["accuracy"]["best_validation"]) == {"epoch", "validation", "test"}


def test_broken_images_are_counted_and_listed(images, tmp_path, capsys):
    (images / "train" / "dark" / "0.png").write_bytes(b"nothing")
    (images / "test" / "bright" / "2.png").write_bytes(b"")
    (images / "test" / "bright" / "notes.txt").write_text("")
    (images / "train" / "__MACOSX").mkdir()
    command = [*SHORT, f"--data-dir={images}", f"--run-dir={tmp_path}/run"]
    assert run("folder", command) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("experiments.folder: error: ")
    assert "train/dark/0.png" in error
    assert run("folder", [*command, "--skip-broken-images"]) == 0
    err = capsys.readouterr().err
    assert "skipped 2 broken images:" in err
    told = f"passed over 2 entries of {images} that are no images of a class: "
    assert err.count(f"{told}.txt: 1 (test/bright/notes.txt), folders of a system: 1 (train/__MACOSX)\n") == 1
    skipped = json.loads((tmp_path / "run" / "summary.json").read_text())["skipped_images"]
    assert [("dark/0.png" in line, "bright/2.png" in line) for line in skipped] == [(True, False), (False, True)]


def test_a_stream_finds_broken_files_before_it_trains(images, tmp_path, capsys):
    (images / "train" / "dark" / "0.png").write_bytes(b"nothing")
    Image.new("RGBA", (8, 8)).save(images / "train" / "bright" / "7.png")
    good = (images / "test" / "dark" / "1.png").read_bytes()
    (images / "test" / "dark" / "1.png").write_bytes(good[: len(good) // 2])  # its header is whole
    command = [*SHORT, f"--data-dir={images}", f"--run-dir={tmp_path}/run", "--stream", "--image-size=8"]
    assert run("folder", command) == 2
    assert 'bright/7.png: mode "RGBA" with transparent pixels; ' in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    assert run("folder", [*command, "--skip-broken-images"]) == 0
    skipped = json.loads((tmp_path / "run" / "summary.json").read_text())["skipped_images"]
    assert sorted(line.split("images/")[1].split(":")[0] for line in skipped) == [
        "test/dark/1.png", "train/bright/7.png", "train/dark/0.png"
    ]  # fmt: skip


def test_another_folder_is_another_run(images, tmp_path):
    shutil.copytree(images, tmp_path / "copy")
    configs = [parse("folder", [*SHORT, f"--data-dir={path}"])[0] for path in (images, tmp_path / "copy", images)]
    digests = [digest(fields_of(each)) for each in configs]
    assert digests[0] == digests[2] != digests[1]


def test_a_comparison_on_a_folder(images, capsys):
    flags = [f"--data-dir={images}", "--model=lenet_300_100", "--batch-size=8", "--dry-run"]
    assert run("compare", ["folder", "--pruners=random,magnitude", "--sparsities=0.5", *flags]) == 0
    assert "3 runs" in capsys.readouterr().out


def test_a_dry_run_of_a_folder(images, capsys):
    assert run("folder", ["--model=conv2", f"--data-dir={images}", "--dry-run", "--batch-size=8"]) == 0
    out = capsys.readouterr().out
    assert "150 epochs of 3 steps" in out
    assert "900 images evaluated" in out


@pytest.mark.parametrize(
    ("dataset", "flags", "message"),
    [
        ("folder", [], "--data-dir: expected the folder with train"),
        ("folder", ["--data-dir=/nowhere"], "/nowhere"),
        ("digits", ["--data-dir=/tmp"], "--data-dir: digits has no use for it; it is for mnist"),
        ("digits", ["--image-size=4"], "--image-size: digits has no use for it; it is for mnist, cifar10, cifar100"),
        ("cifar10", ["--image-size=20"], "--image-size: expected a size that divides 32, got 20"),
        ("mnist", ["--image-size=0"], "--image-size: expected a size that divides 28, got 0"),
        ("cifar10", ["--stream"], "--stream: cifar10 has no use"),
        ("mnist", ["--skip-broken-images"], "--skip-broken-images: mnist has no use"),
        ("imagenet", ["--image-size=0"], "--image-size: expected 1 or more, got 0"),
        ("caltech101", ["--validation-examples=5"], "--validation-examples: caltech101 has 17.. validation images"),
    ],
)
def test_flags_that_do_not_fit_the_data(dataset, flags, message):
    with pytest.raises(ValueError, match=message):
        parse(dataset, flags)


def test_images_made_smaller_are_known_before_they_are_read():
    facts = facts_of(parse("cifar10", ["--image-size=16", "--train-examples=5000"])[0])
    assert facts == ((16, 16, 3), 5000, 10_000, 10, 0)


@pytest.mark.parametrize("dataset", ["tiny_imagenet", "caltech101", "imagenet"])
def test_data_that_are_not_there(dataset, tmp_path, capsys):
    assert run(dataset, [f"--data-dir={tmp_path}", f"--run-dir={tmp_path}/run"]) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert str(tmp_path) in error
    assert not (tmp_path / "run").exists()
