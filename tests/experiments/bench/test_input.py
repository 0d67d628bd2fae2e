"""The benchmark of streamed input runs at a small size, and its clock counts waiting as waiting."""

import io
import json
import re
import time

import jax.numpy as jnp
import pytest
from PIL import Image

from experiments.bench import input as bench
from experiments.bench.__main__ import main
from rare_gems.data.device_batches import Batch


def test_small_run(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "DISTINCT", 2)
    file = tmp_path / "input.json"
    flags = ["--num-images=8", "--batch-size=4", "--image-size=16", "--num-threads=2", f"--json={file}"]
    assert main(["input", *flags]) == 0
    shown = capsys.readouterr().out
    assert "8 JPEGs of 500x375" in shown
    figures = json.loads(file.read_text())
    assert float(re.search(r"rate: +([\d.]+) images/s", shown)[1]) == pytest.approx(
        figures["images_per_second"], abs=0.1
    )
    assert figures["images_per_second"] == pytest.approx(4 / figures["batch_seconds"])
    assert re.search(r"wait: +[\d.]+ % of the time", shown)
    assert 0 <= figures["wait_share"] <= 1
    assert (figures["num_threads"], figures["batch_size"], figures["benchmark"]) == (2, 4, "input")
    assert 60_000 < figures["file_bytes"] < 160_000
    assert {"jax", "jaxlib", "grain", "pillow", "python"} <= set(figures["versions"])
    assert {"date", "host", "device"} <= set(figures)


def batches(count, seconds):
    for _ in range(count):
        time.sleep(seconds)
        yield Batch(jnp.ones((2, 4, 4, 3), jnp.uint8), jnp.ones(2, jnp.int32), jnp.ones(2))


def test_waiting_is_counted():
    step = bench.standin_step(0.05)
    step(next(batches(1, 0))).block_until_ready()  # compiles
    slow, fast = bench.time_epoch(batches(4, 0.1), step), bench.time_epoch(batches(4, 0), step)
    assert slow["num_batches"] == fast["num_batches"] == 4
    assert slow["first_seconds"] >= 0.1
    assert slow["waited"] >= 0.3  # three more batches
    assert slow["seconds"] >= slow["waited"] + 4 * 0.05
    assert fast["seconds"] >= 4 * 0.05
    assert fast["waited"] < fast["seconds"] / 2


def test_step_sees_the_whole_batch():
    assert bench.standin_step(0.0)(next(batches(1, 0))) == 2 * 4 * 4 * 3 + 2


def test_pictures():
    one, other = bench.make_jpeg(0, 50, 40), bench.make_jpeg(1, 50, 40)
    assert one != other
    assert one == bench.make_jpeg(0, 50, 40)
    with Image.open(io.BytesIO(one)) as image:
        assert (image.size, image.mode, image.format) == ((50, 40), "RGB", "JPEG")


@pytest.mark.parametrize(("flag", "message"), [
    ("--num-images=100", "two batches or more, 256, got 100"),
    ("--batch-size=0", "positive"),
    ("--load=1.5", r"\(0, 1\], got 1.5"),
])  # fmt: skip
def test_wrong_flags(flag, message, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["input", flag])
    assert stop.value.code == 2
    assert re.search(message, capsys.readouterr().err)
