"""Images per second that `data.stream_batches` reads, decodes and crops, and how long a step of that rate waits.

Example: python -m experiments.bench input --num-images 2000 --batch-size 128 --num-threads 2
"""

import argparse
import io
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.bench.about import about
from rare_gems.data import stream_batches
from rare_gems.data.decode import usable_cores
from rare_gems.data.device_batches import Batch
from rare_gems.data.streamed_dataset import from_listing
from rare_gems.storage.atomic import write_whole

__all__ = ["main", "make_jpeg", "standin_step", "time_epoch"]

WIDTH, HEIGHT = 500, 375  # about the median of ImageNet
DISTINCT = 100  # the rest are copies


def make_jpeg(seed: int, width: int = WIDTH, height: int = HEIGHT) -> bytes:
    """A picture with the entropy of a photograph: noise of all scales and some shapes with edges; quality 90.

    Example:
      >>> len(make_jpeg(0)) // 1000 in range(60, 160)
      True
    """
    from PIL import Image, ImageDraw

    generator = np.random.default_rng(seed)
    pixels = np.full((height, width, 3), 128, np.float32)
    for octave, amplitude in enumerate((90, 60, 40, 25, 15, 10, 8)):  # falls as in photographs, about 1 / frequency
        coarse = generator.integers(0, 256, (3 << octave, 4 << octave, 3), np.uint8)
        smooth = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        pixels += amplitude * (np.asarray(smooth, np.float32) / 127.5 - 1)
    pixels += generator.normal(0, 15, (height, width, 1)).astype(np.float32)  # grain
    image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    for _ in range(12):
        x, y, w, h = (generator.random(4) * (width, height, width / 4, height / 4)).astype(int).tolist()
        draw.ellipse((x, y, x + w, y + h), fill=tuple(generator.integers(0, 256, 3).tolist()))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=90)
    return file.getvalue()


def time_epoch(epoch: Iterator[Batch], step: Callable[[Batch], jax.Array] | None = None) -> dict[str, Any]:
    """Takes all batches, and runs a step after each if there is one.

    Returns:
      first_seconds: until the first batch was there; seconds: from then to the end; waited: of these, those spent on
      waiting for batches; num_batches; image_shape.
    """
    start = time.perf_counter()
    batch = jax.block_until_ready(next(epoch))
    begin = now = time.perf_counter()
    waited, count, shape = 0.0, 0, batch.images.shape
    while batch is not None:
        count += 1
        if step is not None:
            jax.block_until_ready(step(batch))
        asked = time.perf_counter()
        batch = jax.block_until_ready(next(epoch, None))
        now = time.perf_counter()
        waited += now - asked
    return {"first_seconds": begin - start, "seconds": now - begin, "waited": waited, "num_batches": count,
            "image_shape": shape}  # fmt: skip


def standin_step(seconds: float) -> Callable[[Batch], jax.Array]:
    """A jitted step that reads the whole batch and then takes `seconds`, leaving the cores to others, as on a GPU."""

    def sleep(total: jax.Array) -> np.ndarray:
        time.sleep(seconds)
        return np.asarray(total)

    def step(batch: Batch) -> jax.Array:
        total = batch.images.astype(jnp.float32).sum() + batch.labels.astype(jnp.float32).sum()
        return jax.pure_callback(sleep, jax.ShapeDtypeStruct((), jnp.float32), total)

    return jax.jit(step)


def main(args: list[str]) -> int:
    """Prints the rate and the share of waiting. Returns the exit status."""
    about = (__doc__ or "").partition("\n")[0]
    parser = argparse.ArgumentParser(prog="python -m experiments.bench input", description=about)
    parser.add_argument("--num-images", type=int, default=2000)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--image-size", type=int, default=224, help="height and width after the crop")
    parser.add_argument("--num-threads", type=int, help="that decode (default: one for each core)")
    parser.add_argument("--load", type=float, default=1.0, help="batches arriving per step of the second part, 0 to 1: "
                        "the step takes 1/load of the time of a batch (default 1)")  # fmt: skip
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    flags = parser.parse_args(args)
    threads = 1 if flags.num_threads is None else flags.num_threads
    if min(flags.num_images, flags.batch_size, flags.image_size, threads) < 1:
        parser.error("expected positive numbers")
    if flags.num_images < 2 * flags.batch_size:
        parser.error(f"--num-images: expected two batches or more, {2 * flags.batch_size}, got {flags.num_images}")
    if not 0 < flags.load <= 1:
        parser.error(f"--load: expected a number in (0, 1], got {flags.load}")
    with tempfile.TemporaryDirectory(prefix="rare_gems-bench-") as folder:
        figures = _measure(flags, Path(folder))
    print(f"{flags.num_images} JPEGs of {WIDTH}x{HEIGHT}, {figures['file_bytes'] / 1000:.0f} kB each, to "
          f"{flags.image_size}x{flags.image_size} in batches of {flags.batch_size}, {figures['num_threads']} threads, "
          f"load average {os.getloadavg()[0]:.1f}")  # fmt: skip
    print(f"  rate: {figures['images_per_second']:8.1f} images/s ({1e3 * figures['batch_seconds']:.1f} ms a batch, "
          f"first batch after {figures['first_seconds']:.2f} s)")  # fmt: skip
    print(f"  wait: {100 * figures['wait_share']:8.2f} % of the time, steps of {1e3 * figures['step_seconds']:.1f} ms "
          f"(without prefetch {100 * figures['wait_share_without_prefetch']:.0f} %)")  # fmt: skip
    print(f"device: {figures['device']}, {platform.machine()}")
    print("versions: " + ", ".join(f"{name} {version}" for name, version in figures["versions"].items()))
    if flags.json:
        write_whole(flags.json, (json.dumps(figures, indent=2) + "\n").encode())
    return 0


def _measure(flags: argparse.Namespace, folder: Path) -> dict[str, Any]:
    contents = [make_jpeg(seed) for seed in range(min(DISTINCT, flags.num_images))]
    files = [folder / f"{i:06d}.jpg" for i in range(flags.num_images)]
    for i, file in enumerate(files):
        file.write_bytes(contents[i % len(contents)])
    examples = from_listing(files, np.arange(len(files), dtype=np.int32) % 10)

    def epoch(seed: int) -> Iterator[Batch]:
        return stream_batches.train_batches(
            examples,
            batch_size=flags.batch_size,
            image_size=flags.image_size,
            seed=seed,
            num_threads=flags.num_threads,
        )

    warm = epoch(0)
    example = next(warm)  # imports
    warm.close()  # pyrefly: ignore[missing-attribute]
    free = time_epoch(epoch(1))
    batch_seconds = (free["first_seconds"] + free["seconds"]) / free["num_batches"]
    step = standin_step(batch_seconds / flags.load)
    jax.block_until_ready(step(example))  # compiles
    start = time.perf_counter()
    jax.block_until_ready(step(example))
    step_seconds = time.perf_counter() - start
    busy = time_epoch(epoch(2), step)
    facts = about("input")
    facts["versions"] |= {name: metadata.version(name) for name in ("grain", "pillow")}
    return facts | {
        "num_images": flags.num_images,
        "batch_size": flags.batch_size,
        "image_size": flags.image_size,
        "num_threads": flags.num_threads or usable_cores(),
        "file_bytes": sum(map(len, contents)) / len(contents),
        "images_per_second": flags.batch_size / batch_seconds,
        "batch_seconds": batch_seconds,
        "first_seconds": free["first_seconds"],
        "step_seconds": step_seconds,
        "wait_share": busy["waited"] / busy["seconds"],
        "wait_share_without_prefetch": batch_seconds / (batch_seconds + step_seconds),
    }
