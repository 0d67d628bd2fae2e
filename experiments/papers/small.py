"""Stated reductions that several items share: CIFAR-10 at 16x16 pixels, and digits."""

from experiments.papers.item import Small

__all__ = ["CIFAR_16", "DIGITS", "digits"]

# Batches of 64, since a search needs steps more than images.
CIFAR_16 = Small(
    says="5,000 images of 16x16 pixels in batches of 64, 40 + 15 epochs, freezing every 2, IMP's and LRR's rounds of 4",
    flags="--image-size=16 --train-examples=5000 --batch-size=64 --epochs=40 --finetune-epochs=15 --gem-miner.period=2 "
    "--imp.round-epochs=4 --lrr.round-epochs=4",
)


def digits(says: str = "", flags: str = "", **more: object) -> Small:
    """Digits in place of the paper's images.

    Args:
      says, flags: what else is smaller. more: other fields of `Small`.
    """
    return Small(
        says="digits in place of the paper's images, 20 + 20 epochs, rounds of 3" + (f"; {says}" if says else ""),
        flags="--batch-size=32 --epochs=20 --finetune-epochs=20 --gem-miner.period=1 --imp.round-epochs=3 "
        f"--imp.rewind-step=20 --lrr.round-epochs=3 --edge-popup.period=1 {flags}".strip(),
        dataset="digits",
        **more,  # type: ignore[arg-type]
    )


DIGITS = digits()
