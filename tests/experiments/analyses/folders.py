"""Run folders as a finished run leaves them, of weights that nobody had to train."""

import json
from pathlib import Path

import jax
import numpy as np

from experiments.config.parse import parse
from experiments.config.saved import fields_of
from experiments.problem.network import network_for
from experiments.run_folder import paths
from rare_gems import masks
from rare_gems.phase import Ticket
from rare_gems.storage import ticket_file

FLAGS = ["--model=lenet_300_100", "--finetune-epochs=3", "--batch-size=50"]
_NET = network_for(parse("digits", FLAGS)[0], (8, 8, 1), 10)
START, STATE = jax.tree.map(np.asarray, jax.jit(_NET.init)(jax.random.key(0)))


def moved(seed, size=0.01):
    """Weights near the start, as if trained."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda w: w + np.float32(size) * rng.standard_normal(w.shape, np.float32), START)


def mask_of(seed=None, share=0.25):
    """A random mask; without a seed one that keeps all."""
    if seed is None:
        return jax.tree.map(np.asarray, masks.ones(START))
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda m: rng.permutation(m.size).reshape(m.shape) < round(share * m.size), masks.ones(START))


def make_run(folder: Path, flags, params, mask, initial=START, rounds=(), check=None) -> Path:
    """A finished run of the dense network or of a subnetwork.

    Args:
      flags: as typed. rounds: what each round trained, (params, mask), the first being what they began with.
      check: the sanity check that it is.
    """
    sparsity = ["--sparsity=0.75"] if "--pruner=dense" not in flags else []
    config, _ = parse("digits", [*FLAGS, *sparsity, *flags])
    folder.mkdir(parents=True)
    fields = fields_of(config) | ({"check": check} if check else {})
    (folder / paths.CONFIG).write_text(json.dumps(fields))
    layers = [{"name": name} for name in masks.layer_counts(mask)]
    (folder / paths.SUMMARY).write_text(json.dumps({"layers": layers}))
    ticket = Ticket(masks.apply(params, mask), None, mask)
    ticket_file.save(folder / paths.TICKET, ticket, metadata={}, initial=initial, model_state=STATE)
    for number, (trained, kept) in enumerate(rounds):
        file = paths.round_file(folder, number)
        ticket_file.save(file, Ticket(masks.apply(trained, kept), None, kept), metadata={}, model_state=STATE)
    return folder
