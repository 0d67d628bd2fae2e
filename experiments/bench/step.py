"""Seconds of one GEM-MINER search step against the same step with dense weights and no scores, and against PyTorch's.

Example: python -m experiments.bench step --batch-size 128 --repeats 20
"""

import argparse
import platform
import statistics
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from experiments.bench import step_bytes
from experiments.bench.timing import time_in_turn
from experiments.bench.torch_step import torch_stepper
from rare_gems import init, masks, transforms
from rare_gems.models.model import Model
from rare_gems.models.platforms import keep_freed_memory
from rare_gems.models.resnet import resnet20
from rare_gems.models.vgg import vgg16
from rare_gems.phase import Key, Params, Phase, Step, Ticket
from rare_gems.pruners.gem_miner import search
from rare_gems.training.trainer import Carry, begin, step_parts

__all__ = ["main", "phases"]

TARGET = 1.10
AGAINST_TORCH = 1.0  # on CPU
Batch = tuple[jax.Array, jax.Array]


def phases(ticket: Ticket) -> dict[str, Phase]:
    """Both kinds of step: the GEM-MINER search (1.44 % kept), and SGD on all weights with its settings."""
    return {
        "gem_miner": search(ticket.mask, sparsity=0.9856, num_epochs=150, steps_per_epoch=391),
        "dense": Phase(
            view=_whole,
            trains="params",
            optimizer=optax.chain(optax.add_decayed_weights(2e-4), optax.sgd(0.1, momentum=0.9)),
            during=transforms.identity(),
            after=transforms.identity(),
            num_steps=150 * 391,
            hold_dead=False,
            name="dense",
        ),
    }


def main(args: list[str]) -> int:
    """Prints the time of both steps and their ratio; returns 0."""
    parser = argparse.ArgumentParser(prog="python -m experiments.bench step", description=__doc__)
    parser.add_argument("--model", choices=("resnet20", "vgg16"), default="resnet20")
    parser.add_argument("--against", choices=("torch",), help="also the same step in PyTorch, channels last")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--image-size", type=int, default=32, help="height and width; 3 channels")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="of the activations")
    parser.add_argument("--give-back-memory", action="store_true", help="do not set glibc to keep freed memory")
    parser.add_argument("--bytes", action="store_true", help="also what the search step moves, and the least (on CPU)")
    flags = parser.parse_args(args)
    if min(flags.batch_size, flags.image_size, flags.repeats) < 1:
        parser.error("expected positive numbers")
    kept = False if flags.give_back_memory else keep_freed_memory()

    model = {"resnet20": resnet20, "vgg16": vgg16}[flags.model](compute_dtype=jnp.dtype(flags.dtype))
    keys = jax.random.split(jax.random.key(0), 5)
    params, state = jax.jit(model.init)(keys[0])
    mask = masks.ones(params)
    ticket = Ticket(init.signed_constant(keys[1], params, mask), init.uniform_scores(keys[2], mask), mask)
    shape = (flags.batch_size, flags.image_size, flags.image_size, 3)
    batch = jax.random.normal(keys[3], shape), jax.random.randint(keys[4], shape[:1], 0, 10)

    kinds = phases(ticket)
    try:
        steps = {name: _compile(model, phase, ticket, state, batch) for name, phase in kinds.items()}
    except ValueError as error:  # images that are too small for the network
        parser.error(str(error))
    text = steps["gem_miner"].as_text() or ""
    calls = {name: _stepper(step, kinds[name], ticket, state, batch) for name, step in steps.items()}
    if flags.against:
        try:
            calls["torch"] = torch_stepper(flags.model, flags.batch_size, flags.image_size)
        except ValueError as error:
            parser.error(str(error))
    seconds = time_in_turn(calls, flags.repeats)
    print(
        f"{flags.model}, batch {flags.batch_size}, {flags.image_size}x{flags.image_size}x3, {flags.dtype}, ",
        end="",
    )
    print(
        f"{flags.repeats} steps in turn"
        + (", freed memory kept" if kept else "")
        + (", oneDNN" if "__onednn" in text else "")
    )
    for name, times in seconds.items():
        print(f"{name:>10}: median {1e3 * statistics.median(times):8.2f} ms, min {1e3 * min(times):8.2f} ms")
    ratio, best = (f(seconds["gem_miner"]) / f(seconds["dense"]) for f in (statistics.median, min))
    verdict = "met" if ratio <= TARGET else "missed"
    print(f"     ratio: median {ratio:.3f}, min {best:.3f} (target at most {TARGET:.2f}: {verdict})")
    if flags.against:
        ratio, best = (f(seconds["gem_miner"]) / f(seconds["torch"]) for f in (statistics.median, min))
        verdict = "met" if ratio <= AGAINST_TORCH else "missed"
        print(f"  to torch: median {ratio:.3f}, min {best:.3f} (target at most {AGAINST_TORCH:.2f}: {verdict})")
    if flags.bytes:
        for line in step_bytes.report(text, model, shape, flags.dtype):
            print(line)
    device = jax.devices()[0]
    print(f"device: {device.platform} {device.device_kind}, {jax.device_count()} of them; {platform.machine()}")
    print(f"versions: jax {jax.__version__}, python {platform.python_version()}")
    return 0


def _whole(ticket: Ticket, step: Step, key: Key) -> Params:
    del step, key
    return ticket.params


def _compile(model: Model, phase: Phase, ticket: Ticket, state: Any, batch: Batch) -> jax.stages.Compiled:
    def loss_fn(params: Params, state: Any, batch: Batch, key: Key) -> tuple[jax.Array, Any]:
        del key
        images, labels = batch
        logits, state = model.apply(params, state, images, True)
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
        return loss, (state, (logits.argmax(-1) == labels).astype(jnp.float32).mean())

    descend, edit = step_parts(loss_fn, phase)
    step = jax.jit(
        lambda carry, batch: edit(*descend(carry, batch)) if edit else descend(carry, batch)[0], donate_argnums=0
    )
    return step.lower(begin(phase, ticket, state, jax.random.key(0)), batch).compile()


def _stepper(step: jax.stages.Compiled, phase: Phase, ticket: Ticket, state: Any, batch: Batch) -> Callable[[], Any]:
    carry: Carry = begin(phase, ticket, state, jax.random.key(0))

    def call() -> Any:
        nonlocal carry
        carry = step(carry, batch)
        return carry

    return call
