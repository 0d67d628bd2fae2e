"""oneDNN is called where it may be, gives what XLA gives, and is left alone elsewhere."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rare_gems.models import onednn
from rare_gems.models.fast_conv import _plain, conv2d

pytestmark = pytest.mark.usefixtures("_keep_nothing")
needs_onednn = pytest.mark.skipif(not onednn.works(), reason="this jaxlib has no oneDNN")


def _arrays(dtype=jnp.float32):
    rng = np.random.default_rng(0)
    return (jnp.asarray(rng.standard_normal(s), dtype) for s in ((2, 7, 8, 5), (3, 3, 5, 6)))


def _text(fn, *args):
    return jax.jit(fn).lower(*args).as_text()


def _conv(x, kernel):
    return onednn.convolve(x, kernel, 2, (1, 1), _plain)


@needs_onednn
def test_the_compiled_program_calls_it():
    x, kernel = _arrays()
    assert "__onednn$convolution" in _text(_conv, x, kernel)
    np.testing.assert_allclose(jax.jit(_conv)(x, kernel), _plain(x, kernel, 2, (1, 1)), atol=1e-5)


@needs_onednn
@pytest.mark.parametrize("axes", [(0, None), (None, 0), (0, 0)])
def test_under_vmap_xla_computes_it(axes):
    args = [a if axis is None else jnp.stack([a, 2 * a, a - 1]) for a, axis in zip(_arrays(), axes, strict=True)]
    together = jax.vmap(_conv, axes)
    assert "__onednn" not in _text(together, *args)
    got = jax.jit(together)(*args)
    for i in range(3):
        alone = [a if axis is None else a[i] for a, axis in zip(args, axes, strict=True)]
        np.testing.assert_allclose(got[i], _plain(*alone, 2, (1, 1)), atol=1e-4)


@needs_onednn
def test_derivatives_in_both_modes_and_twice():
    x, kernel = _arrays()
    plain = lambda x, k: _plain(x, k, 2, (1, 1))  # noqa: E731
    both = ((x, kernel), (jnp.cos(x), jnp.sin(kernel)))
    np.testing.assert_allclose(jax.jvp(_conv, *both)[1], jax.jvp(plain, *both)[1], atol=1e-5)
    loss = lambda conv: lambda k: jnp.square(conv(x, k)).sum()  # noqa: E731
    for wrap in (jax.grad, lambda f: jax.grad(lambda k: jnp.vdot(jax.grad(f)(k), jnp.sin(k)))):
        expected = wrap(loss(plain))(kernel)
        np.testing.assert_allclose(wrap(loss(_conv))(kernel), expected, atol=1e-5 * np.abs(expected).max())


@needs_onednn
def test_inside_scan_and_again_to_the_bit():
    x, kernel = _arrays()
    many = jax.jit(lambda x: jax.lax.scan(lambda c, _: (c, _conv(c, kernel)), x, length=2)[1])(x)
    once = jax.jit(_conv)(x, kernel)
    for y in many:
        np.testing.assert_array_equal(y, once)


def test_it_is_used_where_it_is_asked_for_in_float32_on_one_cpu_device(monkeypatch):
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    monkeypatch.delenv("RARE_GEMS_ONEDNN", raising=False)
    assert not onednn.is_usable(np.float32, 10**9)
    monkeypatch.setenv("RARE_GEMS_ONEDNN", "1")
    assert onednn.is_usable(np.float32, 10_000_000) == onednn.works()
    assert not onednn.is_usable(np.float32, 9_999_999)
    assert not onednn.is_usable(jnp.bfloat16, 10**9)
    with monkeypatch.context() as patch:
        patch.setattr(jax, "default_backend", lambda: "gpu")
        assert not onednn.is_usable(np.float32, 10**9)
    monkeypatch.setattr(jax, "device_count", lambda: 8)
    assert not onednn.is_usable(np.float32, 10**9)


def test_its_work_is_products_of_outputs(monkeypatch):
    asked = []
    monkeypatch.setattr(onednn, "is_usable", lambda dtype, products: asked.append(products))
    jax.eval_shape(lambda x, k: conv2d(x, k, 2, (1, 0)), jnp.ones((2, 9, 8, 3)), jnp.ones((3, 2, 3, 4)))
    assert asked == [2 * 5 * 4 * (3 * 2 * 3 * 4)]


def test_an_unknown_wish_is_refused(monkeypatch):
    monkeypatch.setenv("RARE_GEMS_ONEDNN", "true")
    with pytest.raises(ValueError, match="RARE_GEMS_ONEDNN: expected 0 or 1, got 'true'"):
        onednn.ask_for()


@pytest.mark.parametrize("given", [None, "", "0"])
def test_programs_ask_for_it_unless_their_user_said_no(given):
    """In a process of its own, with one device: a large convolution calls it, a small one does not, and JAX's cache
    keeps the other programs without a warning."""
    code = """
import os, sys, warnings
warnings.simplefilter("error")
from rare_gems.models import fast_conv, onednn
onednn.ask_for()
import jax, jax.numpy as jnp
jax.config.update("jax_num_cpu_devices", 1)
conv = jax.jit(lambda x, k: fast_conv.conv2d(x, k, 1, 1))
texts = [conv.lower(jnp.ones((n, 32, 32, 16)), jnp.ones((3, 3, 16, 16))).compile().as_text() for n in (8, 2)]
print(onednn.works(), ["__onednn" in text for text in texts])
"""
    env = {name: value for name, value in os.environ.items() if name != "RARE_GEMS_ONEDNN"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False,
        env=env | ({} if given is None else {"RARE_GEMS_ONEDNN": given}),
    )  # fmt: skip
    assert done.stderr == ""
    works = onednn.works()
    assert done.stdout.strip() == f"{works} {[works and given != '0', False]}"


@needs_onednn
@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit, jax.vmap], ids=["eager", "jit", "vmap"])
def test_product_is_numpys_with_its_derivative(wrap):
    rng = np.random.default_rng(1)
    x, y, dx, dy = (jnp.asarray(rng.standard_normal((2, 9, n)), jnp.float32) for n in (5, 3, 5, 3))
    if wrap is not jax.vmap:
        x, y, dx, dy = (array[0] for array in (x, y, dx, dy))
    plain = lambda x, y: x.T @ y  # noqa: E731
    fn = lambda x, y, dx, dy: jax.jvp(lambda x, y: onednn.product(x, y, plain), (x, y), (dx, dy))  # noqa: E731
    got = wrap(fn)(x, y, dx, dy)
    turned = [np.swapaxes(np.asarray(a), -1, -2).astype(np.float64) for a in (x, dx)]
    np.testing.assert_allclose(got[0], turned[0] @ y, atol=1e-5)
    np.testing.assert_allclose(got[1], turned[1] @ y + turned[0] @ dy, atol=1e-5)
    assert ("__onednn$matmul" in _text(wrap(fn), x, y, dx, dy)) == (wrap is not jax.vmap)


@pytest.mark.parametrize("change", ["version", "machine", "wrong numbers", "wrong products", "no such call"])
def test_anything_unknown_or_wrong_turns_it_off(monkeypatch, change):
    if change == "version":
        monkeypatch.setattr("jaxlib.__version__", "0.99.1")
    elif change == "machine":
        monkeypatch.setattr("platform.machine", lambda: "aarch64")
    elif change == "wrong numbers":
        monkeypatch.setattr(onednn, "_call", lambda x, kernel, stride, padding: jnp.ones((1, 2, 1, 3)))
    elif change == "wrong products":
        monkeypatch.setattr(onednn, "_multiply", lambda x, y: jnp.ones((3, 2)))
    else:
        monkeypatch.setattr(jax.ffi, "ffi_call", _unknown)
    onednn.works.cache_clear()
    try:
        assert onednn.works() is False
    finally:
        onednn.works.cache_clear()


@needs_onednn
@pytest.mark.parametrize("keeps", [True, False])
def test_where_jax_cannot_write_such_programs_it_keeps_none(keeps, tmp_path):
    """In a process of its own: with versions after 0.10 it ends there in a segmentation fault."""
    if keeps and not jax.__version__.startswith("0.10."):
        pytest.skip("this jaxlib keeps no program beside them")
    code = f"""
import sys, warnings
import jax
from rare_gems.models import onednn
onednn._KEEPING = {("0.10",) if keeps else ()}
onednn.ask_for()
warnings.simplefilter("ignore")
jax.config.update("jax_compilation_cache_dir", sys.argv[1])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.jit(lambda x: x + 1)(1)
assert onednn.works()
jax.jit(lambda x: x + 2)(1)
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    assert len(list(tmp_path.glob("jit__lambda-*-cache"))) == 1 + keeps


def _unknown(name, *args, **options):
    def call(*arrays):
        raise jax.errors.JaxRuntimeError(f"UNIMPLEMENTED: no registered implementation for {name}")

    return call
