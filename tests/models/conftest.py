"""Programs that call oneDNN cannot be written to the suite's compilation cache."""

import jax
import pytest


@pytest.fixture
def _keep_nothing():
    name = "jax_persistent_cache_min_compile_time_secs"
    before = getattr(jax.config, name)
    jax.config.update(name, 1e9)
    yield
    jax.config.update(name, before)
