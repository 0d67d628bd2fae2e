"""Stabilizing the Lottery Ticket Hypothesis (Frankle et al., 2019): its figures on ImageNet."""

from experiments.papers.item import Claim, Column, Figure, Item, Part, Small
from experiments.papers.stabilizing_networks import PAPER, order_columns, over_rewinding, stability

__all__ = ["ITEMS"]

_STEPS = -(-1_281_167 // 1024)  # of an epoch
_RECIPES = {
    "resnet50": "--training.warmup-epochs=5 --training.milestones=30,60,80",
    "inception_v3": "--training.optimizer=rmsprop --training.epsilon=1.0 --training.schedule=exponential "
    "--training.end-rate=6.6e-5",
    "squeezenet": "--training.optimizer=nesterov --training.schedule=linear --training.end-rate=0.005",
}
_AT = {"resnet50": "0.7", "inception_v3": "0.7", "squeezenet": "0.5"}
_EPOCHS = {"resnet50": (0, 2, 4, 6), "inception_v3": (0, 3, 6, 9), "squeezenet": (0, 5, 10, 15)}
_ENOUGH = {"resnet50": 4, "inception_v3": 6, "squeezenet": 10}
_DIGITS = Small(
    says="digits and ResNet-20 in place of ImageNet and its networks, 15 epochs of 45 steps, SGD at 0.1 with the usual "
    "milestones, rewound to the same epochs",
    flags="--batch-size=32 --finetune-epochs=15 --imp.round-epochs=15 --learning-rate=0.1 --finetune-learning-rate=0.1 "
    "--training.optimizer=sgd --training.schedule=multistep --training.warmup-epochs=1 --training.milestones=8,12 "
    "--imp.decay --imp.rewind-batch-norm",
    dataset="digits",
    model="resnet20",
)
_ROUNDS = "--imp.rounds=None --imp.rate=0.2"
_NOTES = (
    "Nesterov's momentum for SqueezeNet and an epsilon of 1 for RMSprop are those of the reference code for TPUs.",
    "Our Inception-v3 lacks the auxiliary classifier: 23.8M of the paper's 27.1M weights.",
)


def _imp(epoch: int, rounds: str = "--imp.rounds=1") -> tuple[str, str]:
    """Flags rewinding to an epoch, at the paper's scale and at that of digits, whose epochs have 45 steps."""
    return f"imp {rounds} --imp.rewind-step={epoch * _STEPS}", f"--imp.rewind-step={epoch * 45}"


def _rewinding(model: str) -> Part:
    columns = []
    for epoch in _EPOCHS[model]:
        flags, small = _imp(epoch)
        first, *others = order_columns(f"epoch {epoch}", f"{flags} --keep=rounds", 2, x=float(epoch))
        columns += [first._replace(small=small), *others]
    names = [f"epoch {epoch}" for epoch in _EPOCHS[model]]
    shown = [name for k in (0, 2) for name in (names[k], f"{names[k]}, order 2")]
    enough = f"epoch {_ENOUGH[model]}"
    return Part(
        dataset="imagenet", model=model, columns=tuple(columns), sparsities=(_AT[model],),
        small=_DIGITS._replace(columns=tuple(shown)), flags=f"{_RECIPES[model]} --data-seed=1", sanity=("shuffle",),
        claims=(
            Claim(f"rewound to epoch {_ENOUGH[model]} it reaches the whole network (within 0.5 points)", enough,
                  "dense", at_least=-0.5),
            Claim("rewound it beats its shuffled mask", enough, enough, over_value="shuffle"),
        ),
        analyses=tuple(stability(name, 2, check) for name in names for check in ("", "shuffle")),
    )  # fmt: skip


def _one_shot(model: str) -> Part:
    enough = _ENOUGH[model]
    rewound, reset = f"rewound to epoch {enough}", "reset to 0"
    flags, small = _imp(enough)
    return Part(
        dataset="imagenet", model=model,
        columns=(Column(rewound, flags, small), Column(reset, *_imp(0))),
        sparsities=("0.3", "0.5", "0.7", "0.8", "0.9"), small=_DIGITS._replace(sparsities=("0.7", "0.9")),
        flags=_RECIPES[model], sanity=("reinit",),
        claims=(
            Claim("rewound it matches the whole network (within 0.5 points)", rewound, "dense", at_least=-0.5,
                  sparsity=_AT[model]),
            Claim("reset to iteration 0 it loses accuracy against it", rewound, reset, sparsity=_AT[model]),
            Claim("re-initialized it loses accuracy", rewound, rewound, sparsity=_AT[model], over_value="reinit"),
        ),
    )  # fmt: skip


_ITERATIVE = Part(
    dataset="imagenet", model="resnet50", name="ResNet-50, iterative",
    columns=(Column("rewound to epoch 6", *_imp(6, _ROUNDS)), Column("reset to 0", *_imp(0, _ROUNDS))),
    sparsities=("0.488", "0.8", "0.8926"), small=_DIGITS._replace(sparsities=("0.8",)), flags=_RECIPES["resnet50"],
    sanity=("reinit",),
    claims=(Claim("with 20 % of its weights, rewound to epoch 6, it matches the whole network (within 0.5 points)",
                  "rewound to epoch 6", "dense", at_least=-0.5, sparsity="0.8"),),
)  # fmt: skip


def _dense(model: str) -> Part:
    printed = {("dense", "0.0"): {"after": (78.1, 0.1)}} if model == "inception_v3" else {}
    return Part(
        dataset="imagenet", model=model, columns=(), sparsities=("0.0",), small=_DIGITS, printed=printed,
        flags=_RECIPES[model],
    )  # fmt: skip


ITEMS = (
    Item(
        id="stabilizing-figure-6", paper=PAPER, number="Figure 6", num_seeds=5,
        shows="the networks for ImageNet, their training and their accuracies whole",
        parts=tuple(_dense(model) for model in _RECIPES), figures=(Figure("accuracy_over_columns"),),
        notes=("The text prints the accuracy of Inception-v3 alone.", *_NOTES),
    ),
    Item(
        id="stabilizing-figure-7", paper=PAPER, number="Figure 7", num_seeds=5,
        shows="stability to data order (L2) and accuracy against the epoch rewound to, on ImageNet",
        parts=tuple(_rewinding(model) for model in _RECIPES),
        figures=over_rewinding("Rewinding epoch", "order_l2"),
        notes=("The epochs are chosen here, around those that the text names: 4, 6 and 10.", *_NOTES),
    ),
    Item(
        id="stabilizing-figure-8", paper=PAPER, number="Figure 8", num_seeds=5,
        shows="one-shot pruning at all sparsities, rewound, reset and re-initialized; ResNet-50 also in rounds",
        parts=(*(_one_shot(model) for model in _RECIPES), _ITERATIVE),
        figures=(Figure("accuracy_over_sparsity"), Figure("sanity_over_sparsity")), notes=_NOTES,
    ),
    Item(
        id="stabilizing-figure-12", paper=PAPER, number="Figure 12", num_seeds=5,
        shows="stability to data order and pruning (angle) and accuracy against the epoch rewound to, on ImageNet",
        parts=tuple(_rewinding(model) for model in _RECIPES),
        figures=over_rewinding("Rewinding epoch", "order_angle", "pruning_angle"),
        notes=_NOTES,
    ),
)  # fmt: skip
