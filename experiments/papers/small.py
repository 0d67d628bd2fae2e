"""Stated reductions that several items share: CIFAR-10 at 16x16 pixels, and digits."""

from experiments.papers.item import Small

__all__ = ["CIFAR_16", "DIGITS"]

CIFAR_16 = Small(
    says="5,000 images of 16x16 pixels in batches of 64, 50 + 20 epochs",
    flags="--image-size=16 --train-examples=5000 --batch-size=64 --epochs=50 --finetune-epochs=20 --gem-miner.period=2",
)
DIGITS = Small(
    says="digits in place of the paper's images, 20 + 20 epochs, rounds of 4",
    flags="--batch-size=32 --epochs=20 --finetune-epochs=20 --gem-miner.period=1 --imp.round-epochs=4 "
    "--lrr.round-epochs=4",
    dataset="digits",
)
