"""What is traced for which platform, computations of their own, and the C library's memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rare_gems.models.fast_conv import conv2d
from rare_gems.models.platforms import apart, keep_freed_memory, plain_operations


def test_plain_operations_ends_where_it_is_left():
    trace = lambda: str(jax.make_jaxpr(lambda x, k: conv2d(x, k, 1, 1))(jnp.ones((1, 4, 4, 2)), jnp.ones((3, 3, 2, 2))))  # noqa: E731
    with plain_operations():
        assert "custom_vjp" not in trace()
    with pytest.raises(KeyError), plain_operations():
        raise KeyError
    assert "custom_vjp" in trace()


def test_apart_is_not_fused_into_its_users():
    def both(x, y):
        z = apart(jnp.maximum, x, y)
        return z.T + 1, z * 2

    x, y = jnp.arange(6.0).reshape(2, 3), jnp.full((2, 3), 2.0)
    compiled = jax.jit(both).lower(x, y).compile()
    assert " call(" in compiled.as_text()
    np.testing.assert_array_equal(compiled(x, y)[0], np.maximum(np.arange(6.0).reshape(2, 3), 2).T + 1)


def test_keep_freed_memory_says_whether_the_c_library_took_it(monkeypatch):
    calls = []

    class Library:
        def __init__(self, name):
            assert name is None

        def mallopt(self, option, value):
            calls.append((option, value))
            return int(option != -8)

    monkeypatch.setattr("ctypes.CDLL", Library)
    assert keep_freed_memory() is False
    assert calls == [(-3, 2**31 - 1), (-1, 2**31 - 1), (-8, 1)]
    monkeypatch.setattr("ctypes.CDLL", lambda name: object())
    assert keep_freed_memory() is False
