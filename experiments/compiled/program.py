"""The program of a run's step, or of an epoch of them, for any devices: traced from shapes, nothing drawn or read."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding

from experiments.catalog.networks import input_shape
from experiments.config.config import Config
from experiments.problem.data import facts_of
from experiments.problem.initial_ticket import data_key, run_key, shapes_of
from experiments.problem.network import network_for
from experiments.problem.problem import make_feed, make_loss
from experiments.problem.recipe import plan_of
from experiments.terminal.errors import UsageError
from experiments.training import devices, memory
from experiments.training.stacking import EACH
from rare_gems import leaves
from rare_gems.data.dataset import Dataset, Split
from rare_gems.data.device_batches import Batch, normalise
from rare_gems.models.platforms import plain_operations
from rare_gems.phase import Context, Phase
from rare_gems.training import sharding
from rare_gems.training.feeds import advance_fn
from rare_gems.training.trainer import begin, step_parts

__all__ = ["Program", "check_divides", "lower", "phases_of", "program_of"]

_CONTEXT = Context(step=None, key=0, batch=0, grads=0, loss=0)  # type: ignore  # what vmap maps of it
_PIXELS: dict[str, Any] = {"mean": (0.5,) * 3, "std": (0.25,) * 3}


class Program(NamedTuple):
    """A function of a carry and of other arrays, their shapes (with where they lie), and how many steps it takes.

    `gradient_bytes`: of dL/dw, for one run; `score_bytes`: of its scores; `held_bytes`: what a device holds beside the
    program while a run trains, test images included.
    """

    fn: Callable
    args: tuple[Any, ...]
    num_steps: int
    gradient_bytes: int
    score_bytes: int
    held_bytes: int


def phases_of(config: Config) -> dict[str, Phase]:
    """The kinds of training of a run, "search" and "finetune", each by its first phase with steps."""
    found: dict[str, Phase] = {}
    for phase in plan_of(config).recipe:
        if phase.num_steps and phase.uses_data:
            found.setdefault("finetune" if phase.name == "finetune" else "search", phase)
    return found


def check_divides(config: Config, text: str, num_devices: int, runs: int) -> None:
    """Refuses what cannot be spread over so many devices.

    Raises:
      UsageError: naming the flag.
    """
    asked = config.devices
    if asked is not None and asked > num_devices:
        raise UsageError(f"--devices: expected at most the {num_devices} of --for={text}, got {asked}")
    num = asked or num_devices
    if config.shard_params and num == 1:
        raise UsageError(f"--shard-params: expected several devices to spread weights over, got --for={text}")
    if config.shard_params and runs > 1:
        raise UsageError(f"--shard-params: spreads one run over all devices; expected one run at once, got {runs}")
    parts = num // math.gcd(num, runs)
    if config.batch_size % parts:
        near = round(config.batch_size / parts) * parts or parts
        raise UsageError(
            f"--for={text}: a run's batches lie on {parts} devices; expected a --batch-size that they divide, such as "
            f"{near}, got {config.batch_size}"
        )


def program_of(
    config: Config,
    phase: Phase,
    there: Sequence[jax.Device],
    *,
    runs: int = 1,
    unit: Literal["step", "epoch"] = "step",
) -> Program:
    """What the trainer compiles of a phase: a step, or the scan over an epoch. A stream's steps are always single.

    Args:
      there: the devices, real ones or those of a topology. runs: that train at once.
    Raises:
      UsageError: for what cannot be divided.
    """
    facts = facts_of(config)
    model = network_for(config, input_shape(config.model, facts.image_shape), facts.num_classes)
    mesh = devices.mesh_for(config, runs, there)
    loss = make_loss(model, mesh=mesh if config.batch_norm == "per-device" else None)
    parts = step_parts(loss, phase, mesh)
    ticket, state = shapes_of(model, config)
    keys = jax.eval_shape(lambda: (run_key(config), data_key(config)))
    carry = _many(jax.eval_shape(functools.partial(begin, phase), ticket, state, *keys), runs)
    streamed = config.data.streamed or config.stream
    given, specs = _given(config, facts.num_train, facts.image_shape, streamed)
    num_steps = -(-facts.num_train // config.batch_size) if unit == "epoch" and not streamed else 1
    args = (_placed(carry, there[0], mesh, runs), *_lying(given, specs, there[0], mesh))
    if num_steps > 1:
        fn = functools.partial(_epoch, config, phase, parts, mesh, runs, num_steps)
        args = args[0], args[-1]
    else:
        fn = functools.partial(_step, config, parts, mesh, runs, streamed)
    here = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.sharding.shard_shape(x.shape), x.dtype), args[0])
    held = memory.held_bytes(here.ticket, here.model_state)
    if not streamed:
        held += (facts.num_test + facts.num_validation) * math.prod(facts.image_shape)
    return Program(
        fn=fn,
        args=args,
        num_steps=num_steps,
        gradient_bytes=memory.tree_bytes(leaves.split(ticket.params)[0]),
        score_bytes=memory.tree_bytes(ticket.scores),
        held_bytes=held,
    )


def _given(
    config: Config, num: int, shape: tuple[int, ...], streamed: bool
) -> tuple[tuple[Any, ...], tuple[PartitionSpec, ...]]:
    """What a step gets beside its carry, and where it lies: a stream's batch; or the indices and all images."""
    size, whole = config.batch_size, PartitionSpec()
    if streamed:
        return (_images(size, shape),), (PartitionSpec(("data", "model")),)
    split = _images(num, input_shape(config.model, shape))
    return (jax.ShapeDtypeStruct((size,), jnp.int32), split), (whole, whole)


def _images(num: int, shape: tuple[int, ...]) -> Split:
    images, labels = jax.ShapeDtypeStruct((num, *shape), jnp.uint8), jax.ShapeDtypeStruct((num,), jnp.int32)
    return Split(images, labels)  # type: ignore


def _step(config: Config, parts: Any, mesh: Mesh | None, runs: int, streamed: bool, carry: Any, *given: Any) -> Any:
    """A step of one run or of several, with its batch made as the feed makes it."""
    descend, edit = parts

    def one(carry: Any, *given: Any) -> Any:
        key = jax.random.fold_in(carry.key if carry.data_key is None else carry.data_key, carry.step)
        batch = _streamed(given[0]) if streamed else _fed(config, given[1]).batch(given[1], given[0], key)
        carry, context = descend(carry, sharding.split_batch(batch, mesh))
        return edit(carry, context) if edit else carry

    if runs == 1:
        return one(carry, *given)
    return sharding.over_runs(one, mesh, (EACH, *[None] * len(given)), EACH)(carry, *given)


def _epoch(
    config: Config, phase: Phase, parts: Any, mesh: Mesh | None, runs: int, num_steps: int, carry: Any, split: Any
) -> Any:
    axes = (EACH, _CONTEXT) if runs > 1 else None
    descend, edit = parts
    advance = advance_fn(descend, edit, phase, _fed(config, split), True, axes, mesh)
    return advance(carry, 0, num_steps, lambda done: False)[0]


def _streamed(made: Split) -> Batch:
    weights = jnp.ones(made.labels.shape, jnp.float32)
    return Batch(normalise(jnp.asarray(made.images), **_PIXELS), jnp.asarray(made.labels), weights)


def _fed(config: Config, split: Split) -> Any:
    """The feed of images that are traced; cropped and flipped as CIFAR's are, since the data set is not read."""
    channels = split.images.shape[-1]
    pixels = {name: values[:channels] for name, values in _PIXELS.items()}
    return make_feed(Dataset(config.dataset, split, split, None, 2, crop_padding=4, flip=True, note="", **pixels),
                     split, config)  # fmt: skip


def _many(carry: Any, runs: int) -> Any:
    """The shapes of the carries of several runs, which share the step."""
    if runs == 1:
        return carry
    rest = jax.tree.map(lambda x: jax.ShapeDtypeStruct((runs, *x.shape), x.dtype), tuple(carry[1:]))
    return type(carry)(carry.step, *rest)


def _placed(carry: Any, device: jax.Device, mesh: Mesh | None, runs: int) -> Any:
    """The carry where `sharding.place` would put it."""
    if mesh is None:
        return _with(SingleDeviceSharding(device), carry)

    def placed(x: Any) -> Any:
        own = sharding.spec_of(x.shape[1:] if runs > 1 else x.shape, mesh)
        return _with(NamedSharding(mesh, PartitionSpec("runs", *own) if runs > 1 else own), x)

    step = _with(NamedSharding(mesh, PartitionSpec()), carry.step)
    return type(carry)(step, *jax.tree.map(placed, tuple(carry[1:])))


def _lying(given: Sequence[Any], specs: Sequence[PartitionSpec], device: jax.Device, mesh: Mesh | None) -> list[Any]:
    if mesh is None:
        return [_with(SingleDeviceSharding(device), tree) for tree in given]
    return [_with(NamedSharding(mesh, spec), tree) for tree, spec in zip(given, specs, strict=True)]


def _with(place: Any, tree: Any) -> Any:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), tree)


def lower(program: Program, platform: str) -> jax.stages.Lowered:
    """The program for a platform ("cpu", "cuda", "tpu"), traced as it would be there; the carry is donated."""
    with plain_operations("gpu" if platform == "cuda" else platform):
        traced = jax.jit(program.fn, donate_argnums=0).trace(*program.args)
        return traced.lower(lowering_platforms=(platform,))
