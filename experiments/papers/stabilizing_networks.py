"""The networks of Stabilizing on MNIST and CIFAR-10, trained as its Figure 2 says, at its scale and at a reduction.

Its "Resnet-18" for CIFAR-10 has 274K parameters: ResNet-20, here with 1x1 shortcuts, scales and biases of BatchNorm,
and 270,896 prunable weights. 30K and 112K iterations are 85 and 159 epochs of 45,000 images.
"""

from collections.abc import Sequence

from experiments.papers.item import Analysis, Cells, Claim, Column, Figure, Part, Small

__all__ = [
    "ERRORS", "OPEN", "PAPER", "PIXELS", "RATES", "RECIPES", "SWAPPED", "at_two_levels", "levels", "order_columns",
    "over_rewinding", "part_of", "small_of", "stability",
]  # fmt: skip

PAPER = "Stabilizing"

_LENET = (
    "--training.optimizer=adam --training.schedule=constant --learning-rate=0.0012 --finetune-learning-rate=0.0012 "
    "--imp.rewind-step=0 --no-normalize"
)
_RESNET = (
    "--validation-examples=5000 --batch-size=128 --finetune-epochs=85 --imp.round-epochs=85 --imp.rewind-step=0 "
    "--imp.rewind-batch-norm --init=kaiming_normal --weight-decay=1e-4 --network.affine --network.bias "
    "--network.shortcut=B --training.milestone-steps=20000,25000"
)
_VGG = (
    "--validation-examples=5000 --batch-size=64 --finetune-epochs=159 --imp.round-epochs=159 --imp.rewind-step=0 "
    "--imp.rewind-batch-norm --init=kaiming_normal --weight-decay=1e-4 --network.affine --network.bias "
    "--training.milestone-steps=56000,84000"
)
_STANDARD = "--learning-rate=0.1 --finetune-learning-rate=0.1"
_LOW = "--learning-rate=0.01 --finetune-learning-rate=0.01"
_WARM_RESNET = "--learning-rate=0.03 --finetune-learning-rate=0.03 --training.warmup-steps=20000"
_WARM_VGG = f"{_STANDARD} --training.warmup-steps=10000"
RECIPES = {
    "LeNet": ("mnist", "lenet_300_100", _LENET, "0.893"),
    "ResNet-18 (standard)": ("cifar10", "resnet20", f"{_RESNET} {_STANDARD}", "0.833"),
    "ResNet-18 (low)": ("cifar10", "resnet20", f"{_RESNET} {_LOW}", "0.833"),
    "ResNet-18 (warm-up)": ("cifar10", "resnet20", f"{_RESNET} {_WARM_RESNET}", "0.833"),
    "VGG-19 (standard)": ("cifar10", "vgg19", f"{_VGG} {_STANDARD}", "0.978"),
    "VGG-19 (low)": ("cifar10", "vgg19", f"{_VGG} {_LOW}", "0.978"),
    "VGG-19 (warm-up)": ("cifar10", "vgg19", f"{_VGG} {_WARM_VGG}", "0.978"),
}
_DIGITS = Small(
    says="digits and ResNet-20 in place of CIFAR-10 and the networks, 8 epochs of 45 steps a training, milestones at "
    "steps 180 and 270, warm-up of 60",
    flags="--batch-size=32 --finetune-epochs=8 --imp.round-epochs=8 --validation-examples=0 "
    "--training.milestone-steps=180,270 --imp.decay",
    dataset="digits",
    model="resnet20",
    num_seeds=2,
)
_MNIST = Small(
    says="6,000 images of 28x28 pixels, 10 epochs of 100 steps a training",
    flags="--train-examples=6000 --finetune-epochs=10 --imp.round-epochs=10",
    num_seeds=2,
)
SWAPPED = (
    "Figure 2 prints the falls of the rate swapped: 56K and 84K for ResNet-18 (30K iterations), 20K and 25K for VGG-19 "
    "(112K)."
)
RATES = (
    "The text of Figure 2 has one rate, 0.01, for all of a network; 0.1 for standard, 0.01 for low, and 0.03 "
    "(ResNet-18) or 0.1 (VGG-19) for warm-up are those of Frankle and Carbin (2019), from which it took them."
)
OPEN = "Initialization, biases and the rate of a round (20 %) are as in OpenLTH; the paper does not state them."
PIXELS = (
    "LeNet's pixel values stay in [0, 1], which the paper does not state either: with OpenLTH's mean and deviation "
    "weights are smaller, and so are most distances."
)
ERRORS = "Errors are the distance to the smallest or largest of 3 samples, of 18 for data orders."


def order_columns(name: str, flags: str, number: int, x: float | None = None) -> tuple[Column, ...]:
    """A column, and its ticket trained again under other orders of the data: the number of orders in all."""
    again = [
        Column(f"{name}, order {i}", f"ticket '--ticket.run=@{name}' --data-seed={i}", x=x)
        for i in range(2, number + 1)
    ]
    return (Column(name, flags, x=x), *again)


def small_of(network: str) -> Small:
    """The reduction of the network."""
    if network == "LeNet":
        return _MNIST
    warm = " --training.warmup-steps=60" if "warm-up" in network else ""
    return _DIGITS._replace(flags=_DIGITS.flags + warm)


def part_of(
    network: str,
    columns: Sequence[Column],
    sparsities: Sequence[str] = (),
    printed: Cells | None = None,
    sanity: Sequence[str] = (),
    claims: Sequence[Claim] = (),
    analyses: Sequence[Analysis] = (),
    small: Small | None = None,
) -> Part:
    """A part of the network as Figure 2 has it trained, with one order of the data for all of its columns."""
    dataset, model, flags, usual = RECIPES[network]
    return Part(
        dataset=dataset, model=model, columns=tuple(columns), sparsities=tuple(sparsities or (usual,)),
        small=small or small_of(network), printed=printed or {}, flags=f"{flags} --data-seed=1", sanity=tuple(sanity),
        claims=tuple(claims), analyses=tuple(analyses), name=network,
    )  # fmt: skip


_VGG_LEVELS, _RESNET_LEVELS = ("0.488", "0.7903", "0.9313", "0.978"), ("0.488", "0.7379", "0.833", "0.9313")


def levels(network: str) -> tuple[str, ...]:
    """The sparsities of a figure over all of them."""
    return _VGG_LEVELS if network.startswith("VGG") else _RESNET_LEVELS


def at_two_levels(network: str) -> Small:
    """The reduction at two of the sparsities."""
    all_of_them = levels(network)
    return small_of(network)._replace(sparsities=(all_of_them[0], all_of_them[2]))


def stability(name: str, number: int, check: str = "") -> Analysis:
    """Its numbers stand with the first of the columns. check: of what that check makes of them."""
    columns = (name, *(f"{name}, order {i}" for i in range(2, number + 1)))
    return Analysis("stability", columns, against="dense", check=check)


def over_rewinding(label: str, *values: str) -> tuple[Figure, ...]:
    """A figure for each stability ("order_l2", ...), then one of accuracy: IMP and the random subnetwork in each."""
    lines = [(f"stability.{value}", f"stability.shuffle_{value}") for value in values]
    return tuple(
        Figure("accuracy_over_columns", ours, label=label, lines=(("IMP", ours), ("random", random)))
        for ours, random in [*lines, ("after", "shuffle")]
    )
