"""Find, train, check and compare lottery tickets at initialization, in JAX.

This module imports nothing, so that `from rare_gems import masks` costs no more than JAX itself.
"""

__version__ = "0.1.0"
