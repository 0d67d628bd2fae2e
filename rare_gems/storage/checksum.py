"""A checksum of arrays that devices compute where the parts of an array lie."""

import math

import jax
import jax.numpy as jnp
import numpy as np

__all__ = ["checksum"]

Array = np.ndarray | jax.Array


@jax.jit
def checksum(leaf: Array) -> jax.Array:
    """A number that changes with any element, and with their order: sum over i of mix(bits_i + mix(i)), modulo 2^32.

    `mix` is a bijection of 32-bit integers, so one changed element always shows; other damage is missed once in 2^32.
    Elementwise but for the sum, so the parts of a sharded array stay where they are, and any sharding gives the same.

    Args:
      leaf: any shape and dtype; not PRNG keys.
    Returns:
      uint32 scalar, replicated.
    Example:
      >>> a, b, c = checksum(jnp.array([1, 2])), checksum(jnp.array([2, 1])), checksum(jnp.array([1, 3]))
      >>> len({int(a), int(b), int(c)})
      3

    Source: the finalizer of MurmurHash3 (Appleby, 2011) as `mix`.
    """
    index = jnp.zeros(leaf.shape, jnp.uint32)
    for axis, stride in enumerate(_strides(leaf.shape)):
        index += jax.lax.broadcasted_iota(jnp.uint32, leaf.shape, axis) * jnp.uint32(stride % 2**32)
    total = jnp.uint32(0)
    for part, word in enumerate(_words(leaf)):
        total += jnp.sum(_mix(word + _mix(index + jnp.uint32(part * 0x9E3779B9 % 2**32))), dtype=jnp.uint32)
    return total


def _mix(x: jax.Array) -> jax.Array:
    x = (x ^ (x >> jnp.uint32(16))) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> jnp.uint32(13))) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> jnp.uint32(16))


def _words(leaf: Array) -> list[jax.Array]:
    """The bits of each element, in uint32: one word, or the low and the high one, of a complex both parts'."""
    if jnp.issubdtype(leaf.dtype, jnp.complexfloating):
        return _words(jnp.real(leaf)) + _words(jnp.imag(leaf))
    if jnp.issubdtype(leaf.dtype, jnp.integer) and jnp.iinfo(leaf.dtype).bits < 8:  # int4 lies in bytes
        leaf = jnp.asarray(leaf).astype(jnp.int8)
    if leaf.dtype == jnp.bool:
        return [jnp.asarray(leaf, jnp.uint32)]
    if leaf.dtype.itemsize == 8:
        pair = jax.lax.bitcast_convert_type(leaf, jnp.uint32)
        return [pair[..., 0], pair[..., 1]]
    return [jnp.asarray(jax.lax.bitcast_convert_type(leaf, f"uint{8 * leaf.dtype.itemsize}"), jnp.uint32)]


def _strides(shape: tuple[int, ...]) -> list[int]:
    return [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
