"""Strict settings for the whole suite: eight CPU devices, no silent promotion of rank or dtype, checked types."""

import gc
import os
from importlib.metadata import version

if version("jaxlib").startswith("0.10."):  # compiles in half the time; later versions may not know these
    fast = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {fast}"
os.environ |= {  # for the commands that tests start, too: the suite compiles much and computes little
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
}

import jax
import pytest

from tests import typed

gc.set_threshold(100_000, 20, 100)  # the usual one takes a fifteenth of the suite

pytest.register_assert_rewrite("tests.contract")  # the laws of the methods
typed.install("rare_gems")


def pytest_configure(config):
    # nnx.List is a MutableSequence of typing, which beartype finds old.
    config.addinivalue_line("filterwarnings", "ignore::beartype.roar.BeartypeDecorHintPep585DeprecationWarning")
    # What another process has half written to the cache is compiled again.
    config.addinivalue_line("filterwarnings", "ignore:Error reading persistent compilation cache entry:UserWarning")


def pytest_collection_finish():
    gc.freeze()  # what is imported stays


jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")


@pytest.fixture(scope="session", autouse=True)
def _compile_once(tmp_path_factory):
    """Equal programs are compiled once in a session, whichever test, worker or command asks first."""
    base = tmp_path_factory.getbasetemp()
    cache = str((base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "compiled")
    jax.config.update("jax_compilation_cache_dir", cache)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_COMPILATION_CACHE_DIR", cache)
        yield


@pytest.fixture(autouse=True)
def _check_types(request):
    """Annotations are checked in every test, but for those that pass wrong arguments to see the library's own error."""
    wrong_on_purpose = "raises" in getattr(request, "function", _check_types).__code__.co_names
    typed.enabled[0] = not wrong_on_purpose
    yield
    typed.enabled[0] = True
