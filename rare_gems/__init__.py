"""Find, train, check and compare lottery tickets at initialization, in JAX.

| question | page |
|---|---|
| How do I make, count and apply a mask? | `rare_gems.masks` |
| How do I prune in a training loop of mine? | `rare_gems.sparse` |
| How do I find a ticket? | `rare_gems.pruners` |
| Is it a lottery ticket? | `rare_gems.sanity` |
| How do I compare runs? | `rare_gems.reports` |
| How do I analyse tickets: distance, overlap, dead weights? | `rare_gems.analysis` |
| How do I save a ticket, and read it elsewhere? | `rare_gems.storage` |
| Which networks are there, and how do I export one to PyTorch or Keras? | `rare_gems.models` |

Each begins with an example. This module imports nothing, so that `from rare_gems import masks` costs no more than JAX
itself.
"""

__version__ = "0.1.0"
