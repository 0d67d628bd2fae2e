"""What a step on CPU moves through memory, beside the least that it has to, and the time that either takes at best."""

import math
import statistics
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp

from experiments.bench.timing import measured_peak, time_in_turn
from experiments.compiled.counts import is_free, kind_of
from experiments.compiled.hlo import Module, bytes_of, parse
from experiments.problem.network import forward_flop
from rare_gems.models.model import Model
from rare_gems.models.platforms import plain_operations
from rare_gems.training.control_flow import equations

__all__ = ["Passes", "least_bytes", "passes_of", "report"]

SHORT = 1 << 16  # bytes; shorter passes are left out of the table


class Passes(NamedTuple):
    """Passes over memory of one kind: how many, and the bytes that they read and write."""

    number: int
    bytes: int


def passes_of(text: str) -> dict[str, Passes]:
    """The passes of a compiled program by kind, those that move the most first.

    Args:
      text: of a program without loops, as JAX's compiled programs give it (as_text).
    Example:
      >>> text = "ENTRY %main (x: f32[32768]) -> f32[32768] {\\n"
      >>> text += "  %x = f32[32768]{0} parameter(0)\\n  ROOT %y = f32[32768]{0} negate(%x)\\n}"
      >>> passes_of(text)
      {'element-wise': Passes(number=1, bytes=262144)}
    """
    module = parse(text)
    found: dict[str, Passes] = {}
    for kind, size in _walk(module, module.entry):
        if size >= SHORT:
            before = found.get(kind, Passes(0, 0))
            found[kind] = Passes(before.number + 1, before.bytes + size)
    return dict(sorted(found.items(), key=lambda item: -item[1].bytes))


def _walk(module: Module, name: str) -> Iterator[tuple[str, int]]:
    operations = module.computations[name]
    for operation in operations.values():
        if operation.opcode == "call":
            for called in operation.called:
                yield from _walk(module, called)
        elif not is_free(operation):
            read = sum(bytes_of(operations[operand].shape) for operand in operation.operands if operand in operations)
            yield kind_of(module, operation), read + bytes_of(operation.shape)


def least_bytes(model: Model, shape: tuple[int, ...], itemsize: int = 4) -> int:
    """Bytes of a step that reads and writes each activation once in each of its passes, with weights for nothing.

    Of a convolution with inputs I and outputs A: forward I + A; BatchNorm with ReLU A + A; back through these A (the
    gradient), A (what they normalized), A (what comes out); both gradients of the convolution A, I, and I, but for the
    first layer's. Shortcuts, pooling and the loss are not counted, nor that BatchNorm needs its statistics first.

    Args:
      shape: of the images, [batch, height, width, channels]. itemsize: bytes of a number.
    Raises:
      ValueError: for a network without convolutions.
    """
    with plain_operations():
        params, state = jax.eval_shape(model.init, jax.random.key(0))
        traced = jax.make_jaxpr(lambda params, state, x: model.apply(params, state, x, True))(
            params, state, jax.ShapeDtypeStruct(shape, jnp.float32)
        )
    sizes = [
        itemsize * (3 * math.prod(equation.invars[0].aval.shape) + 7 * math.prod(equation.outvars[0].aval.shape))
        for equation in equations(traced.jaxpr)
        if equation.primitive.name == "conv_general_dilated"
    ]
    if not sizes:
        raise ValueError("model: expected a network with convolutions, got none in it")
    return sum(sizes) - itemsize * math.prod(shape)


def report(text: str, model: Model, shape: tuple[int, ...], precision: str = "float32") -> Iterator[str]:
    """Lines that tell the bytes of a compiled step, the least, and how long either takes at this machine's speeds.

    Args:
      text: of the compiled step. shape: of its images. precision: of its activations.
    """
    passes, least = passes_of(text), least_bytes(model, shape, jnp.dtype(precision).itemsize)
    middle = jnp.ones(shape[:3] + (16,), precision)
    copy = jax.jit(jnp.negative)
    seconds = statistics.median(time_in_turn({"copy": lambda: copy(middle)}, 20)["copy"])
    speed = 2 * middle.nbytes / seconds
    products = 3 * shape[0] * forward_flop(model, shape[1:])
    peak, _ = measured_peak(precision)
    for kind, (number, size) in passes.items():
        yield f"{kind:>14}: {number:4d} passes, {size / 1e9:6.2f} GB"
    total = sum(size for _, size in passes.values())
    yield (
        f"memory: {total / 1e9:.2f} GB a step, {1e3 * total / speed:.0f} ms at {speed / 1e9:.1f} GB/s (a pass over "
        f"{middle.nbytes / 1e6:.1f} MB); the least {least / 1e9:.2f} GB, {1e3 * least / speed:.0f} ms"
    )
    yield (
        f"products: {products / 1e9:.1f} GFLOP, {1e3 * products / peak:.0f} ms at {peak / 1e9:.0f} GFLOP/s; floor of "
        f"both, one after the other: {1e3 * (products / peak + least / speed):.0f} ms"
    )
