"""Tickets and checkpoints in files, each written whole and verified when it is read.

`rare_gems.storage.ticket_file` has the format, and shows how to read one without this library.

Example:
  >>> import pathlib, tempfile
  >>> import jax.numpy as jnp
  >>> from rare_gems.phase import Ticket
  >>> from rare_gems.storage import ticket_file
  >>> kernel = jnp.array([[1.0, 2.0], [3.0, 4.0]])
  >>> ticket = Ticket(params={"kernel": kernel}, scores=None, mask={"kernel": kernel > 2})
  >>> path = pathlib.Path(tempfile.mkdtemp()) / "ticket.safetensors"
  >>> ticket_file.save(path, ticket, metadata={"method": "magnitude", "seed": 1})
  >>> loaded = ticket_file.load(path)
  >>> loaded.ticket.mask["kernel"].tolist(), loaded.metadata["sparsity"]
  ([[False, False], [True, True]], 0.5)
"""
