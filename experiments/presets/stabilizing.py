"""Stabilizing the Lottery Ticket Hypothesis (Frankle et al., 2019): IMP with rewinding.

  python -m experiments.mnist --pruner=imp --model=lenet_300_100 --sparsity=0.893
  python -m experiments.cifar10 --pruner=imp --model=vgg19 --sparsity=0.978
  python -m experiments.imagenet --pruner=imp --model=resnet50 --sparsity=0.7

Expected: LeNet 98.0 % dense and 98.3 with 10.7 % of its weights; VGG-19 91.5 dense, 90.0 with 2.2 % cold, and more than
dense rewound to iteration 100 (Figures 2 to 5). On ImageNet the dense accuracy: ResNet-50 without 70 % at once, rewound
to epoch 4 of 90, or without 80 % in rounds, rewound to epoch 6; Inception-v3 (78.1) without 70 %, to epoch 6 of 171;
SqueezeNet without 50 %, to epoch 10 of 150 (Figures 6 to 8). The epochs of --imp.rewind-step are of batches of 1024.

The paper's "ResNet-18" for CIFAR-10 has 274K parameters: it is a ResNet-20. IMP and the dense network of that pair stay
with Rare Gems (`rare_gems`); the paper's are --imp.rewind-step=500 --imp.round-epochs=85 --network.affine, 30K
iterations of 45,000 images. The dense VGG-19 is that of `sanity_checking`, which lasts as long.

SGD trains here, with two milestones by the length: Adam, RMSprop, warm-up and other schedules of the paper are named in
the sources. What the paper leaves out is from OpenLTH, by its first author, and the reference code for TPUs that it
used. Its Inception-v3 has 27.1M parameters, with the auxiliary classifier that ours lacks.
"""

from experiments.presets.rows import OURS, Row, Table, join, row, untrained

__all__ = ["TABLES"]

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
    f"{_F2} (50K iterations of 60 images)", 50, 60,
    (f"{_OPEN_LTH} (the paper: Adam at 0.0012)", 0.1),
    row(_OPEN_LTH, network__bias=True, weight_decay=0.0),
    momentum=0.0,
)  # fmt: skip
_LENET_IMP = join(_imp(_LENET, f"{_F2}: tickets win at iteration 0", 0), row(_F2, imp__decay=False))

_NORM = row(_OPEN_LTH, network__affine=True, network__bias=True, weight_decay=1e-4)
_VGG_19 = _dense(
    f"{_F2} (112K iterations of 64 from 45,000 images)", 160, 64, (f"{_OPEN_LTH}; standard in {_F2}", 0.1), _NORM
)
_RESNET_50 = _dense(
    f"{_F6}", 90, 1024,
    (f"{_F6} (5 epochs of warm-up, and milestones 30, 60 and 80, there; 45 and 60 here)", 0.4),
    _NORM, row(_OPEN_LTH, network__stem="imagenet"),
)  # fmt: skip
_SQUEEZENET = _dense(
    "Stabilizing, section 5 (150 epochs), and reference code for TPUs", 150, 1024,
    (f"{_F6}, and reference code for TPUs (Nesterov's momentum, and linearly to 0.005, there)", 0.03),
    row(f"{_TPU} (there, the loss leaves it out)", weight_decay=2e-4), row(OURS, network__bias=True),
)  # fmt: skip
_INCEPTION = _dense(
    _F6, 171, 1024,
    (f"{_F6}, and reference code for TPUs (RMSprop with an epsilon of 1, and exponentially to 6.6e-5, there)", 0.66),
    row(_TPU, network__affine=True, image_size=299), row(OURS, network__bias=True, weight_decay=4e-5),
)  # fmt: skip


def _of(model: str, dataset: str, dense: Row, imp: dict[float, Row]) -> Table:
    table: Table = {("dense", model, dataset): {0.0: dense}, ("imp", model, dataset): imp}
    return table | untrained(model, dataset, dense, "Stabilizing")


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
