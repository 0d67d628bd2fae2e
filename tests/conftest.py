"""Strict settings for the whole suite: eight CPU devices, no silent promotion of rank or dtype."""

import jax

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")
