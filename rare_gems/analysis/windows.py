"""Convolutions and pooling in NumPy, a tap of the window at a time, forwards and back, for any layout and dilation."""

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from rare_gems.analysis.contractions import multiply

__all__ = ["convolve", "pool", "pull_image", "pull_kernel", "pull_pool"]

Array = np.ndarray


class _Windows(NamedTuple):
    """How windows lie over axes: sizes of the input and the window; strides, padding and dilations of each axis."""

    size: Sequence[int]
    window: Sequence[int]
    strides: Sequence[int]
    padding: Sequence[tuple[int, int]]
    spread: Sequence[int]  # dilation of the input
    dilation: Sequence[int]  # of the window

    def inner(self) -> list[int]:
        return [max((n - 1) * s + 1, 0) for n, s in zip(self.size, self.spread, strict=True)]

    def room(self) -> list[int]:
        """The padded sizes; padding below zero is cut off."""
        return [n + low + high for n, (low, high) in zip(self.inner(), self.padding, strict=True)]

    def out(self) -> list[int]:
        lengths = [(w - 1) * d + 1 for w, d in zip(self.window, self.dilation, strict=True)]
        return [max((n - w) // s + 1, 0) for n, w, s in zip(self.room(), lengths, self.strides, strict=True)]

    def place(self) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
        """Where the input lies in the padded room, and which of the input that is."""
        there, here = [], []
        for n, (low, _), step, room in zip(self.size, self.padding, self.spread, self.room(), strict=True):
            first = max(-(low // step), 0) if low < 0 else 0
            last = min(n, -(-(room - low) // step))
            there.append(slice(first * step + low, max((last - 1) * step + low + 1, 0), step))
            here.append(slice(first, max(last, first)))
        return tuple(there), tuple(here)

    def taps(self) -> Iterator[tuple[tuple[int, ...], tuple[slice, ...]]]:
        """Each place in the window, and the elements of the padded room that are there, for all windows."""
        out = self.out()
        for tap in np.ndindex(*self.window):
            starts = [t * d for t, d in zip(tap, self.dilation, strict=True)]
            steps = zip(starts, out, self.strides, strict=True)
            yield tap, tuple(slice(a, a + (n - 1) * s + 1, s) for a, n, s in steps)


class _Layout(NamedTuple):
    """Permutations to [batch, space..., channels], to [space..., inputs, outputs] for the kernel; and groups."""

    image: tuple[int, ...]
    kernel: tuple[int, ...]
    out: tuple[int, ...]
    groups: int
    windows: _Windows


def convolve(params: dict[str, Any], image: Array, kernel: Array) -> Array:
    """`lax.conv_general_dilated`, of one batch group.

    Args:
      params: of the equation. image, kernel: numbers.
    Raises:
      NotImplementedError: for several groups of a batch.
    """
    layout = _layout(params, image.shape, kernel.shape)
    room, k = _room(layout, image), _grouped_kernel(layout, kernel)
    out = layout.windows.out()
    sums = np.zeros((layout.groups, len(room) * math.prod(out), k.shape[-1]), np.result_type(image, kernel))
    for tap, at in layout.windows.taps():
        sums += multiply(_rows(room, at), k[tap])
    return _from_rows(layout, sums, len(room), out)


def pull_image(params: dict[str, Any], need: Array, kernel: Array, shape: tuple[int, ...]) -> Array:
    """What `convolve` of an image of that shape pulls back to the image: the transposed convolution."""
    layout = _layout(params, shape, kernel.shape)
    k, needs = _grouped_kernel(layout, kernel), _to_rows(layout, need)
    batch, channels = shape[layout.image[0]], shape[layout.image[-1]]
    room = np.zeros((batch, *layout.windows.room(), layout.groups, channels // layout.groups), need.dtype)
    for tap, at in layout.windows.taps():
        back = multiply(needs, k[tap].swapaxes(1, 2)).swapaxes(0, 1)
        part = room[(slice(None), *at)]
        part += back.reshape(part.shape)
    there, here = layout.windows.place()
    image = np.zeros((batch, *layout.windows.size, channels), need.dtype)
    image[(slice(None), *here)] = room[(slice(None), *there)].reshape(*image[(slice(None), *here)].shape)
    return image.transpose(np.argsort(layout.image))


def pull_kernel(params: dict[str, Any], need: Array, image: Array, shape: tuple[int, ...]) -> Array:
    """What `convolve` with a kernel of that shape pulls back to the kernel."""
    layout = _layout(params, image.shape, shape)
    room, needs = _room(layout, image), _to_rows(layout, need)
    inputs, outputs = (shape[i] for i in layout.kernel[-2:])
    k = np.zeros((*layout.windows.window, layout.groups, inputs, outputs // layout.groups), need.dtype)
    for tap, at in layout.windows.taps():
        k[tap] = multiply(_rows(room, at).swapaxes(1, 2), needs)
    k = np.moveaxis(k, -3, -2).reshape(*layout.windows.window, inputs, outputs)
    return k.transpose(np.argsort(layout.kernel))


def pool(params: dict[str, Any], live: Array) -> Array:
    """bool: whether any element of each window is True, as of `lax.reduce_window`."""
    windows = _pooling(params, live.shape)
    room, out = _placed(windows, live), np.zeros(windows.out(), bool)
    for _, at in windows.taps():
        out |= room[at]
    return out


def pull_pool(params: dict[str, Any], need: Array, shape: tuple[int, ...]) -> Array:
    """bool: which elements are in a window that is needed."""
    windows = _pooling(params, shape)
    room = np.zeros(windows.room(), bool)
    for _, at in windows.taps():
        room[at] |= need
    there, here = windows.place()
    image = np.zeros(shape, bool)
    image[here] = room[there]
    return image


def _pooling(params: dict[str, Any], shape: tuple[int, ...]) -> _Windows:
    return _Windows(
        shape, params["window_dimensions"], params["window_strides"], _pairs(params["padding"]),
        params["base_dilation"], params["window_dilation"],
    )  # fmt: skip


def _layout(params: dict[str, Any], image: tuple[int, ...], kernel: tuple[int, ...]) -> _Layout:
    if params["batch_group_count"] != 1:
        raise NotImplementedError("groups of a batch")
    numbers = params["dimension_numbers"]
    (n, c, *space), (o, i, *taps), (m, f, *places) = numbers.lhs_spec, numbers.rhs_spec, numbers.out_spec
    windows = _Windows(
        [image[axis] for axis in space], [kernel[axis] for axis in taps], params["window_strides"],
        _pairs(params["padding"]), params["lhs_dilation"], params["rhs_dilation"],
    )  # fmt: skip
    return _Layout((n, *space, c), (*taps, i, o), (m, *places, f), params["feature_group_count"], windows)


def _pairs(padding: Sequence[tuple[Any, Any]]) -> list[tuple[int, int]]:
    """Plain integers: JAX 0.8 has those of NumPy."""
    return [(int(low), int(high)) for low, high in padding]


def _placed(windows: _Windows, image: Array, before: int = 0, after: int = 0) -> Array:
    """The image in its padded room; the first and last axes have no windows."""
    ends = image.shape[image.ndim - after :]
    room = np.zeros((*image.shape[:before], *windows.room(), *ends), image.dtype)
    there, here = windows.place()
    first = (slice(None),) * before
    room[(*first, *there)] = image[(*first, *here)]
    return room


def _room(layout: _Layout, image: Array) -> Array:
    """[batch, padded space..., groups, channels of a group]."""
    room = _placed(layout.windows, image.transpose(layout.image), 1, 1)
    return room.reshape(*room.shape[:-1], layout.groups, -1)


def _grouped_kernel(layout: _Layout, kernel: Array) -> Array:
    """[space..., groups, inputs, outputs of a group]."""
    k = kernel.transpose(layout.kernel)
    return np.moveaxis(k.reshape(*k.shape[:-1], layout.groups, -1), -2, -3)


def _rows(room: Array, at: tuple[slice, ...]) -> Array:
    """[groups, batch and places, channels of a group]."""
    part = room[(slice(None), *at)]
    return part.reshape(-1, *part.shape[-2:]).swapaxes(0, 1)


def _to_rows(layout: _Layout, need: Array) -> Array:
    rows = need.transpose(layout.out)
    return rows.reshape(-1, layout.groups, rows.shape[-1] // layout.groups).swapaxes(0, 1)


def _from_rows(layout: _Layout, rows: Array, batch: int, out: list[int]) -> Array:
    return rows.swapaxes(0, 1).reshape(batch, *out, -1).transpose(np.argsort(layout.out))
