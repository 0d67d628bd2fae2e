"""The accuracy on a split, of one run or of several at once: one call of the device for all of it on an accelerator."""

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from rare_gems.data import device_batches, stream_batches
from rare_gems.data.dataset import Dataset, Split
from rare_gems.data.device_batches import Batch
from rare_gems.data.streamed_dataset import Examples, Streamed
from rare_gems.models.model import Model, with_key
from rare_gems.phase import ModelState, Params
from rare_gems.training import sharding

__all__ = [
    "Accuracy",
    "Evaluation",
    "batch_of",
    "batch_size",
    "hits",
    "make_evaluation",
    "stream_batch_size",
    "stream_place",
    "tops_of",
]

Accuracy = Callable[[Params, ModelState, Split | Examples], jax.Array]


_MANY_CLASSES = 100  # from there on the top-5 accuracy is measured too: CIFAR-100, Caltech-101, TinyImageNet, ImageNet


class Evaluation(NamedTuple):
    """`one(params, state, split) -> float32 scalar`; `many`, of trees with a leading axis of runs -> float32 [runs].
    `ranked` and `ranked_many` give float32 [num_tops] and [runs, num_tops]: the accuracies of `tops_of` the data.
    None waits for the device."""

    one: Accuracy
    many: Accuracy
    ranked: Accuracy
    ranked_many: Accuracy


def tops_of(data: Dataset | Streamed) -> tuple[int, ...]:
    """Among how many of the highest logits the label's is looked for: 1, and 5 where there are 100 classes or more."""
    return (1, 5) if data.num_classes >= _MANY_CLASSES else (1,)


def hits(logits: jax.Array, labels: jax.Array, top: int = 1) -> jax.Array:
    """float32 [B]: 1 where the label's logit is the highest, or among the `top` highest; of equal ones the first are.

    Example:
      >>> logits, labels = jnp.array([[0.1, 0.9, 0.5], [0.3, 0.2, 0.1]]), jnp.array([2, 2])
      >>> hits(logits, labels).tolist(), hits(logits, labels, top=2).tolist()
      ([0.0, 0.0], [1.0, 0.0])
    """
    if top == 1:
        return (logits.argmax(-1) == labels).astype(jnp.float32)
    return (jax.lax.top_k(logits, top)[1] == labels[:, None]).any(axis=-1).astype(jnp.float32)


def batch_size(num: int, side: int, runs: int = 1, whole: bool | None = None, multiple: int = 1) -> int:
    """Images in a batch: at most 500 on CPU and 2,000 on an accelerator, shared by the runs; of images of more than 32
    pixels a side fewer, so that the activations take no more. All batches are about equally full.

    Args:
      whole: as in `make_evaluation`. multiple: of devices that share a batch.
    Example:
      >>> batch_size(10_000, 32, whole=True), batch_size(10_000, 224, whole=True), batch_size(360, 8, whole=False)
      (2000, 40, 360)
    """
    whole = jax.default_backend() != "cpu" if whole is None else whole
    most = max(1, (2000 if whole else 500) * 32**2 // max(side, 32) ** 2 // runs)
    most = max(multiple, most // multiple * multiple)
    size = -(-num // -(-num // most))  # as few batches as it takes
    return -(-size // multiple) * multiple


def stream_batch_size(num: int, multiple: int = 1) -> int:
    """Images in a batch of a stream: at most 256, or the multiple above it."""
    return -(-min(256, num) // multiple) * multiple


def batch_of(data: Dataset | Streamed, split: Split, first: jax.Array | int, size: int) -> Batch:
    """Images `first` .. `first + size - 1` as the network takes them; past the end, weights of 0."""
    return device_batches.eval_batch(split, first, size, mean=data.mean, std=data.std)


def stream_place(mesh: Mesh | None) -> dict[str, Any]:
    """Which part of a stream's batches this process reads, and where they go."""
    if mesh is None:
        return {}
    return {"shard": (jax.process_index(), jax.process_count()), "device": sharding.row_sharding(mesh)}


def make_evaluation(
    model: Model,
    data: Dataset | Streamed,
    broken: list[str] | None = None,
    *,
    whole: bool | None = None,
    mesh: Mesh | None = None,
) -> Evaluation:
    """The functions that count the images which a network gets right, in evaluation mode; a network that takes a key
    gets the same one each time.

    Args:
      broken: where a stream notes the images that it leaves out, if it is to leave out broken ones.
      whole: all batches of a split in one compiled call (None: except on CPU, where XLA's convolutions are slow inside
        of loops); a stream's batches are calls of their own nevertheless.
      mesh: the devices over which runs, and the rows of each batch, are spread.
    """
    # Over 60 lines: functions that close over each other, compiled for one run and for several.
    tops = tops_of(data)
    multiple, num_parts = sharding.num_sharing(mesh), 1 if mesh is None else mesh.shape["runs"]
    in_one = jax.default_backend() != "cpu" if whole is None else whole

    def count(params: Params, state: ModelState, batch: Batch) -> jax.Array:
        batch = sharding.split_batch(batch, mesh)
        logits, _ = with_key(model.apply)(sharding.whole(params, mesh), state, batch.images, False)
        return jnp.stack([(hits(logits, batch.labels, top) * batch.weights).sum() for top in tops])

    def part(size: int, params: Params, state: ModelState, split: Split, first: jax.Array) -> jax.Array:
        return count(params, state, batch_of(data, split, first, size))

    def streamed(params: Params, state: ModelState, batch: Batch) -> jax.Array:
        images = device_batches.normalise(batch.images, mean=data.mean, std=data.std)
        return count(params, state, batch._replace(images=images))

    def all_parts(size: int, params: Params, state: ModelState, split: Split) -> jax.Array:
        def add(total: jax.Array, first: jax.Array) -> tuple[jax.Array, None]:
            return total + part(size, params, state, split, first), None

        firsts = jnp.arange(0, split.labels.shape[0], size, dtype=jnp.int32)
        return jax.lax.scan(add, jnp.zeros(len(tops), jnp.float32), firsts)[0]

    def make(many: bool) -> Accuracy:
        def each(fn: Callable, num_shared: int) -> Callable:
            return sharding.over_runs(fn, mesh, (0, 0, *[None] * num_shared), 0) if many else fn

        @functools.partial(jax.jit, static_argnums=0)
        def jit_all(size: int, params: Params, state: ModelState, split: Split) -> jax.Array:
            return each(functools.partial(all_parts, size), 1)(params, state, split)

        @functools.partial(jax.jit, static_argnums=0)
        def jit_part(size: int, params: Params, state: ModelState, split: Split, first: jax.Array) -> jax.Array:
            return each(functools.partial(part, size), 2)(params, state, split, first)

        jit_streamed = jax.jit(each(streamed, 1))

        def accuracy(params: Params, state: ModelState, split: Split | Examples) -> jax.Array:
            runs = jax.tree.leaves(params)[0].shape[0] if many else 1
            on_each = max(1, runs // num_parts)
            total: Any = np.zeros((runs, len(tops)) if many else len(tops), np.float32)
            if isinstance(split, Examples):
                seen = total
                for batch in _streamed_batches(split, data, broken, mesh):
                    total, seen = total + jit_streamed(params, state, batch), seen + batch.weights.sum()
                return total / jnp.maximum(seen, 1)
            num = split.labels.shape[0]
            size, of = batch_size(num, split.images.shape[1], on_each, in_one, multiple), np.full_like(total, num)
            if in_one:
                total = jit_all(size, params, state, split)
            else:
                for first in range(0, num, size):
                    total = total + jit_part(size, params, state, split, jnp.int32(first))
            return total / of  # both of one shape: XLA divides by a scalar through its reciprocal, which rounds twice

        return accuracy

    ranked, ranked_many = make(False), make(True)
    return Evaluation(
        one=lambda *given: ranked(*given)[..., 0],
        many=lambda *given: ranked_many(*given)[..., 0],
        ranked=ranked,
        ranked_many=ranked_many,
    )


def _streamed_batches(
    split: Examples, data: Dataset | Streamed, broken: list[str] | None, mesh: Mesh | None
) -> Iterator[Batch]:
    assert isinstance(data, Streamed)
    multiple = sharding.num_sharing(mesh)
    size = stream_batch_size(split.num, multiple)
    return stream_batches.eval_batches(
        split, batch_size=size, image_size=data.image_size, skip_broken=broken, **stream_place(mesh)
    )
