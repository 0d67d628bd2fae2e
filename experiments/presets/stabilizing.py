"""Stabilizing the Lottery Ticket Hypothesis (Frankle et al., 2019): IMP with rewinding.

  python -m experiments.mnist --pruner=imp --model=lenet_300_100 --sparsity=0.893
  python -m experiments.cifar10 --pruner=imp --model=vgg19 --sparsity=0.978
  python -m experiments.imagenet --pruner=imp --model=resnet50 --sparsity=0.7

Expected: LeNet 98.0 % dense and 98.3 with 10.7 % of its weights; VGG-19 91.5 dense, 90.0 with 2.2 % cold, and more than
dense rewound to iteration 100 (Figures 2 to 5). On ImageNet the dense accuracy: ResNet-50 without 70 % at once, rewound
to epoch 4 of 90, or without 80 % in rounds, rewound to epoch 6; Inception-v3 (78.1) without 70 %, to epoch 6 of 171;
SqueezeNet without 50 %, to epoch 10 of 150 (Figures 6 to 8). The epochs of --imp.rewind-step are of batches of 1024.

The paper's "ResNet-18" for CIFAR-10 has 274K parameters: it is a ResNet-20. IMP and the dense network of that pair stay
with Rare Gems (`rare_gems`), the dense VGG-19 with `sanity_checking`. Figure 2 trains the two in three ways, variants:

  python -m experiments.cifar10 --pruner=imp --model=resnet20 --sparsity=0.833 --variant=stabilizing-warmup
  python -m experiments.cifar10 --pruner=dense --model=vgg19 --variant=stabilizing-low --validation-examples=5000

Dense accuracies: ResNet-20 90.5 standard, 89.1 low, 89.6 with warm-up; VGG-19 91.5, 92.0, 92.3. The paper counts
iterations, of 45,000 images as it seems; here they are epochs of that size. Its drops of the two networks are swapped
in print, and its rates are all printed as 0.01: those here are of Frankle and Carbin, 2019, which it names.

What the paper leaves out is from OpenLTH, by its first author, and the reference code for TPUs that it used: there
RMSprop's mean square begins at 1, here at 0. Its Inception-v3 has 27.1M parameters, with the auxiliary classifier that
ours lacks.
"""

from experiments.presets.rows import OURS, Row, Table, join, row, untrained

__all__ = ["TABLES", "VARIANTS"]

_F2, _F6, _OPEN_LTH = "Stabilizing, Figure 2", "Stabilizing, Figure 6", "code of OpenLTH"
_SECTION_5, _TPU = "Stabilizing, section 5", "reference code for TPUs, as in Stabilizing"
_STEPS = -(-1_281_167 // 1024)  # of an epoch of ImageNet, in batches of 1024


def _dense(
    length: str, epochs: int, batch_size: int, rate: tuple[str, float], *more: Row, momentum: float = 0.9
) -> Row:
    return join(
        row(length, finetune_epochs=epochs, batch_size=batch_size),
        row(rate[0], finetune_learning_rate=rate[1], momentum=momentum),
        row(_OPEN_LTH, init="kaiming_normal"),
        row(OURS, epochs=0, seed=42),
        *more,
    )


def _imp(dense: Row, source: str, rewind_step: int, *, rounds: int | None = None) -> Row:
    """Rounds as long as the dense training; one-shot with rounds=1."""
    values, sources = dense
    rate, length = sources["finetune_learning_rate"], sources["finetune_epochs"]
    how = row("Stabilizing, section 5: one-shot", imp__rounds=rounds) if rounds else row(_SECTION_5, imp__rate=0.2)
    return join(
        dense,
        row(rate, learning_rate=values["finetune_learning_rate"]),
        row(length, imp__round_epochs=values["finetune_epochs"]),
        row(source, imp__rewind_step=rewind_step),
        row(_OPEN_LTH, imp__rewind_batch_norm=True),
        how,
    )


_LENET = _dense(
    f"{_F2} (50K iterations of 60 images)", 50, 60, (_F2, 12e-4),
    row(_F2, training__optimizer="adam", training__schedule="constant"),
    row(_OPEN_LTH, network__bias=True, weight_decay=0.0),
)  # fmt: skip
_LENET_IMP = _imp(_LENET, f"{_F2}: tickets win at iteration 0", 0)

_NORM = row(_OPEN_LTH, network__affine=True, network__bias=True, weight_decay=1e-4)
_VGG_19 = _dense(
    f"{_F2} (112K iterations of 64 from 45,000 images)", 160, 64, (f"{_OPEN_LTH}; standard in {_F2}", 0.1), _NORM
)
_RESNET_50 = _dense(
    f"{_F6}", 90, 1024,
    (_F6, 0.4), row(_F6, training__milestones="30,60,80", training__warmup_epochs=5),
    _NORM, row(_OPEN_LTH, network__stem="imagenet"),
)  # fmt: skip
_SQUEEZENET = _dense(
    "Stabilizing, section 5 (150 epochs), and reference code for TPUs", 150, 1024,
    (_F6, 0.03), row(_F6, training__schedule="linear", training__end_rate=0.005),
    row(_TPU, training__optimizer="nesterov"),
    row(f"{_TPU} (there, the loss leaves it out)", weight_decay=2e-4), row(OURS, network__bias=True),
)  # fmt: skip
_INCEPTION = _dense(
    _F6, 171, 1024,
    (_F6, 0.66), row(_F6, training__optimizer="rmsprop", training__schedule="exponential", training__end_rate=6.6e-5),
    row(_TPU, training__epsilon=1.0),
    row(_TPU, network__affine=True, image_size=299), row(OURS, network__bias=True, weight_decay=4e-5),
)  # fmt: skip


def _of(model: str, dataset: str, dense: Row, imp: dict[float, Row]) -> Table:
    table: Table = {("dense", model, dataset): {0.0: dense}, ("imp", model, dataset): imp}
    return table | untrained(model, dataset, dense, "Stabilizing")


_RATES = f"{_F2}; the rates of Frankle and Carbin, 2019 (0.01 in print)"


def _variants(dense: Row, warm: tuple[float, str, int], rewind: tuple[str, int]) -> dict[str, Row]:
    """Standard, low and with warm-up: (rate, what the paper says of it, epochs), and where IMP rewinds to."""
    values, sources = _imp(dense, *rewind)
    stated = {field: value for field, value in values.items() if sources[field] != OURS}
    imp = stated, {field: sources[field] for field in stated}
    warmed = join(
        row(_RATES, learning_rate=warm[0], finetune_learning_rate=warm[0]),
        row(f"{_F2} ({warm[1]})", training__warmup_epochs=warm[2]),
    )
    low = row(_RATES, learning_rate=0.01, finetune_learning_rate=0.01)
    return {"stabilizing-standard": imp, "stabilizing-low": join(imp, low), "stabilizing-warmup": join(imp, warmed)}


_RESNET_20 = _dense(
    f"{_F2} (30K iterations of 128 from 45,000 images)", 85, 128, (_RATES, 0.1), _NORM,
    row(f"{_F2} (20K and 25K iterations)", training__milestones="57,71"),
)  # fmt: skip
_VGG_19_STATED = join(
    _VGG_19, row(_RATES, finetune_learning_rate=0.1),
    row(f"{_F2} (56K and 84K iterations)", training__milestones="80,120"),
)  # fmt: skip
VARIANTS = {
    ("resnet20", "cifar10"): _variants(
        _RESNET_20, (0.03, "20K iterations", 57), ("Stabilizing, section 4: iteration 500", 500)
    ),
    ("vgg19", "cifar10"): _variants(
        _VGG_19_STATED, (0.1, "10K iterations", 14), ("Stabilizing, section 4: iteration 100", 100)
    ),
}

TABLES: Table = {
    ("imp", "vgg19", "cifar10"): {0.978: _imp(_VGG_19, "Stabilizing, section 4", 100)},
    **_of("lenet_300_100", "mnist", _LENET, {0.893: _LENET_IMP}),
    **_of("resnet50", "imagenet", _RESNET_50, {
        0.7: _imp(_RESNET_50, f"{_SECTION_5}: epoch 4", 4 * _STEPS, rounds=1),
        0.8: _imp(_RESNET_50, f"{_SECTION_5}: epoch 6", 6 * _STEPS),
    }),
    **_of("squeezenet", "imagenet", _SQUEEZENET, {
        0.5: _imp(_SQUEEZENET, f"{_SECTION_5}: epoch 10", 10 * _STEPS, rounds=1),
    }),
    **_of("inception_v3", "imagenet", _INCEPTION, {
        0.7: _imp(_INCEPTION, f"{_SECTION_5}: epoch 6", 6 * _STEPS, rounds=1),
    }),
}  # fmt: skip
