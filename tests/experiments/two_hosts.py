"""Trains the toy in folders one after another, as one of several processes, and goes on from what it finds there."""

import os
import signal
import sys
from pathlib import Path

import jax

from experiments import hosts
from rare_gems import checkpoint, sharding, ticket_io, trainer
from rare_gems.pruners.gem_miner import gem_miner
from tests.toy import NUM_BATCHES, make_toy

EPOCHS = 14


def train(folder: Path) -> None:
    toy = make_toy()
    mesh = sharding.make_mesh(jax.devices())
    feed = toy.feed._replace(data=sharding.place(toy.feed.data, mesh))
    recipe = gem_miner(toy.ticket.mask, sparsity=0.5, num_epochs=EPOCHS, steps_per_epoch=NUM_BATCHES, period=2, l2=1e-3)
    manager = checkpoint.open_folder(folder / "checkpoints")

    def template(notes: dict) -> trainer.Carry:
        begin = lambda: trainer.begin(recipe[notes["index"]], toy.ticket, toy.model_state, jax.random.key(7))  # noqa: E731
        return jax.eval_shape(begin)

    found = checkpoint.restore_latest(manager, template)
    if found:
        print(f"goes on from step {found.position}", flush=True)
    resume = (found.notes["index"], found.tree) if found else None
    ticket = toy.ticket
    for moment in trainer.epochs(
        recipe, toy.ticket, toy.model_state, loss_fn=toy.loss_fn, feed=feed, key=jax.random.key(7), resume=resume,
        mesh=mesh,
    ):  # fmt: skip
        if moment.ended:
            ticket = moment.ticket
        else:
            checkpoint.save(manager, int(moment.carry.step), moment.carry, {"index": moment.index})
            print(f"{folder.name} epoch {moment.epoch}", flush=True)
    checkpoint.close(manager)
    if hosts.is_main():
        ticket_io.save(folder / "ticket.safetensors", ticket, metadata={})


def check() -> None:
    """What the processes say to each other before they train."""
    jax.config.update("jax_num_cpu_devices", 2)
    jax.config.update("jax_disable_most_optimizations", True)
    caught = []
    signal.signal(signal.SIGTERM, lambda *_: caught.append(True))
    hosts.start(heartbeat_s=10)
    if jax.process_index() == 1:  # JAX has not taken the signal for itself
        os.kill(os.getpid(), signal.SIGTERM)
    print(f"to stop: {hosts.any_of(bool(caught))}", flush=True)
    try:
        hosts.check_agreement({"seed": 41 + jax.process_index(), "gem_miner": {"period": 2}})
    except hosts.UsageError as error:
        print(error, flush=True)
    hosts.check_agreement({"seed": 41})
    print(f"main is {hosts.on_main(jax.process_index)}", flush=True)
    try:
        hosts.on_main(lambda: int("no number"))
    except ValueError as error:
        print(error, flush=True)
    hosts.barrier("checked")


def main(folders: list[str]) -> int:
    try:
        with hosts.guard():
            check()
            for folder in folders:
                train(Path(folder))
    except hosts.HostLost as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return hosts.RESTART
    return 0


if __name__ == "__main__":
    if status := main(sys.argv[1:]):
        os._exit(status)
