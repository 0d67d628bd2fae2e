"""Makes torch_outputs.json: PyTorch twins of our networks with the usual names, and what they compute in float64.

Needs torch (2.13 was used) and shares no code with the library. Weights and images follow from a formula of the
tensors' names (`drawn`), which the test has as well. Run `python tests/golden/make_torch_outputs.py`.

A network is a function of a `Net` and images; the net makes a layer when first called, by its name in the state dict.
"""

import json
import math
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812


def drawn(name, shape, variance):
    """float32 values that depend on the tensor's name only."""
    bits = np.random.PCG64(zlib.crc32(name.encode())).random_raw(math.prod(shape))
    unit = ((bits >> np.uint64(40)).astype(np.float64) * 2.0**-23 - 1).reshape(shape)
    leaf = name.rpartition(".")[2]
    if leaf == "weight" and len(shape) > 1:
        unit *= math.sqrt(6 / math.prod(shape[1:]))
    elif leaf == "weight":
        unit = 1 + unit / 2
    elif leaf == "running_var":
        unit = variance * (1 + unit / 2)
    elif leaf != "images":
        unit /= 4
    return unit.astype(np.float32)


class Net:
    """torch's layers by name, in float64."""

    def __init__(self, affine, bias, dense_as_conv):
        self.affine, self.bias, self.dense_as_conv, self.train, self.layers = affine, bias, dense_as_conv, False, {}

    def layer(self, name, x, kind, *args, **options):
        self.layers[name] = self.layers.get(name) or kind(x.shape[1], *args, **options).double()
        return self.layers[name].train(self.train)(x)

    def conv(self, name, x, outputs, size=3, stride=1, padding=None, groups=1, bias=False):
        sizes = (size, size) if isinstance(size, int) else size
        padding = tuple(s // 2 for s in sizes) if padding is None else padding
        return self.layer(name, x, nn.Conv2d, outputs, size, stride, padding, groups=groups, bias=bias)

    def norm(self, name, x, eps=1e-5):
        return self.layer(name, x, nn.BatchNorm2d, eps=eps, affine=self.affine)

    def dense(self, name, x, outputs=10):
        if self.dense_as_conv:
            return self.conv(name, x[:, :, None, None], outputs, 1, bias=self.bias)[:, :, 0, 0]
        return self.layer(name, x, nn.Linear, outputs, bias=self.bias)

    def state_dict(self):
        return {f"{name}.{leaf}": t for name, m in self.layers.items() for leaf, t in m.state_dict().items()}


def resnet(net, x, counts, channels, shortcut, head, stem=3, bottleneck=False):
    # shortcut: the name of option B's, "" for option A
    x = F.relu(net.norm("bn1", net.conv("conv1", x, channels, stem, 2 if stem == 7 else 1)))
    x = F.max_pool2d(x, 3, 2, 1) if stem == 7 else x
    for i, count in enumerate(counts):
        middle = channels << i
        outputs = 4 * middle if bottleneck else middle
        for j in range(count):
            block, stride = f"layer{i + 1}.{j}", 2 if i and not j else 1
            convs = [(middle, 1, 1), (middle, 3, stride), (outputs, 1, 1)]
            y, convs = x, convs if bottleneck else [(outputs, 3, stride), (outputs, 3, 1)]
            for k, conv in enumerate(convs, 1):
                y = net.norm(f"{block}.bn{k}", net.conv(f"{block}.conv{k}", y, *conv))
                y = F.relu(y) if k < len(convs) else y
            extra = outputs - x.shape[1]
            if shortcut and extra:
                x = net.norm(f"{block}.{shortcut}.1", net.conv(f"{block}.{shortcut}.0", x, outputs, 1, stride))
            elif extra:
                x = F.pad(x[:, :, ::stride, ::stride], (0, 0, 0, 0, extra // 2, extra - extra // 2))
            x = F.relu(y + x)
    return net.dense(head, x.mean((2, 3)))


def wide_resnet(net, x, channels, block, shortcut, head):
    x = net.conv("conv1", x, channels)
    for i in range(3):
        for j in range(4):
            at, outputs, stride = block.format(i + 1, j), 2 * channels << i, 2 if i and not j else 1
            a = F.relu(net.norm(f"{at}.bn1", x))
            y = F.relu(net.norm(f"{at}.bn2", net.conv(f"{at}.conv1", a, outputs, 3, stride)))
            y = net.conv(f"{at}.conv2", y, outputs)
            x = y + (x if x.shape[1] == outputs else net.conv(f"{at}.{shortcut}", a, outputs, 1, stride))
    return net.dense(head, F.relu(net.norm("bn1", x)).mean((2, 3)))


def mobilenet_v2(net, x, width):
    x, i = F.relu(net.norm("bn1", net.conv("conv1", x, int(32 * width)))), 0
    for expansion, outputs, count, first_stride in (
        (1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)
    ):  # fmt: skip
        for stride in [first_stride] + [1] * (count - 1):
            at, hidden, channels = f"layers.{i}", expansion * x.shape[1], int(outputs * width)
            y = F.relu(net.norm(f"{at}.bn1", net.conv(f"{at}.conv1", x, hidden, 1)))
            y = F.relu(net.norm(f"{at}.bn2", net.conv(f"{at}.conv2", y, hidden, 3, stride, groups=hidden)))
            y = net.norm(f"{at}.bn3", net.conv(f"{at}.conv3", y, channels, 1))
            if stride == 1 and x.shape[1] != channels:
                x = net.norm(f"{at}.shortcut.1", net.conv(f"{at}.shortcut.0", x, channels, 1))
            x, i = y + x if stride == 1 else y, i + 1
    x = F.relu(net.norm("bn2", net.conv("conv2", x, int(1280 * width), 1)))
    return net.dense("linear", x.mean((2, 3)))


def vgg(net, x, plan, width):
    i = 0  # in an nn.Sequential: convolution, BatchNorm, ReLU; max-pool
    for step in plan.split():
        if step == "M":
            x, i = F.max_pool2d(x, 2), i + 1
        else:
            x = net.conv(f"features.{i}", x, int(int(step) * width), bias=net.bias)
            x, i = F.relu(net.norm(f"features.{i + 1}", x)), i + 3
    return net.dense("classifier", x.mean((2, 3)))


def conv_net(net, x, pairs, width):
    for i in range(pairs):  # convolution, ReLU, convolution, ReLU, max-pool
        x = F.relu(net.conv(f"convs.{5 * i}", x, int(64 * width) << i, bias=net.bias))
        x = F.max_pool2d(F.relu(net.conv(f"convs.{5 * i + 2}", x, x.shape[1], bias=net.bias)), 2)
    x = F.relu(net.dense("linear.0", x.flatten(1), int(256 * width)))
    return net.dense("linear.4", F.relu(net.dense("linear.2", x, int(256 * width))))


def lenet_300_100(net, x):
    x = F.relu(net.dense("fc1", x.flatten(1), 300))
    return net.dense("fc3", F.relu(net.dense("fc2", x, 100)))


def lenet_5(net, x):
    for name, outputs in (("conv1", 20), ("conv2", 50)):
        x = F.max_pool2d(net.conv(name, x, outputs, 5, padding=0, bias=True), 2)
    return net.dense("fc2", F.relu(net.dense("fc1", x.flatten(1), 500)))


def squeezenet(net, x, width, stem, size, fires):
    """`fires` are the fire modules' numbers in their nn.Sequential; one is left out for each max-pool."""
    x, last = F.relu(net.conv("features.0", x, int(stem * width), size, 2, 0, bias=True)), 1
    for i, at in enumerate(fires):
        x = F.max_pool2d(x, 3, 2, ceil_mode=True) if at > last + 1 else x
        squeeze, last = int(16 * (i // 2 + 1) * width), at
        x = F.relu(net.conv(f"features.{at}.squeeze", x, squeeze, 1, bias=True))
        branches = [net.conv(f"features.{at}.expand{k}x{k}", x, 4 * squeeze, k, bias=True) for k in (1, 3)]
        x = F.relu(torch.cat(branches, 1))
    return F.relu(net.conv("classifier.1", x, 10, 1, bias=True)).mean((2, 3))


def inception_v3(net, x, width):
    def unit(name, x, outputs, *args):
        return F.relu(net.norm(f"{name}.bn", net.conv(f"{name}.conv", x, int(outputs * width), *args), 1e-3))

    def chain(name, x, *units):
        for i, args in enumerate(units, 1):
            x = unit(f"{name}_{i}", x, *args)
        return x

    def mean(x):
        return F.avg_pool2d(x, 3, 1, 1)

    x = unit("Conv2d_2a_3x3", unit("Conv2d_1a_3x3", x, 32, 3, 2, 0), 32, 3, 1, 0)
    x = F.max_pool2d(unit("Conv2d_2b_3x3", x, 64, 3), 3, 2)
    x = F.max_pool2d(unit("Conv2d_4a_3x3", unit("Conv2d_3b_1x1", x, 80, 1), 192, 3, 1, 0), 3, 2)
    for name, a in (("5b", 32), ("5c", 64), ("5d", 64)):
        b = f"Mixed_{name}.branch"
        five, dbl = chain(b + "5x5", x, (48, 1), (64, 5)), chain(b + "3x3dbl", x, (64, 1), (96, 3), (96, 3))
        x = torch.cat([unit(b + "1x1", x, 64, 1), five, dbl, unit(b + "_pool", mean(x), a, 1)], 1)
    b = "Mixed_6a.branch"
    dbl = chain(b + "3x3dbl", x, (64, 1), (96, 3), (96, 3, 2, 0))
    x = torch.cat([unit(b + "3x3", x, 384, 3, 2, 0), dbl, F.max_pool2d(x, 3, 2)], 1)
    for name, c in (("6b", 128), ("6c", 160), ("6d", 160), ("6e", 192)):
        b = f"Mixed_{name}.branch"
        seven = chain(b + "7x7", x, (c, 1), (c, (1, 7)), (192, (7, 1)))
        dbl = chain(b + "7x7dbl", x, (c, 1), (c, (7, 1)), (c, (1, 7)), (c, (7, 1)), (192, (1, 7)))
        x = torch.cat([unit(b + "1x1", x, 192, 1), seven, dbl, unit(b + "_pool", mean(x), 192, 1)], 1)
    b = "Mixed_7a.branch"
    seven = chain(b + "7x7x3", x, (192, 1), (192, (1, 7)), (192, (7, 1)), (192, 3, 2, 0))
    x = torch.cat([chain(b + "3x3", x, (192, 1), (320, 3, 2, 0)), seven, F.max_pool2d(x, 3, 2)], 1)
    for name in ("7b", "7c"):
        b = f"Mixed_{name}.branch"
        once, twice = unit(b + "3x3_1", x, 384, 1), chain(b + "3x3dbl", x, (448, 1), (384, 3))
        wide = [unit(f"{b}3x3_2{s}", once, 384, k) for s, k in (("a", (1, 3)), ("b", (3, 1)))]
        wide += [unit(f"{b}3x3dbl_3{s}", twice, 384, k) for s, k in (("a", (1, 3)), ("b", (3, 1)))]
        x = torch.cat([unit(b + "1x1", x, 320, 1), *wide, unit(b + "_pool", mean(x), 192, 1)], 1)
    return net.dense("fc", x.mean((2, 3)))


# VGG: a number of channels for each convolution, M for each max-pool.
VGG16 = "64 64 M 128 128 M 256 256 256 M 512 512 512 M 512 512 512 M"
VGG19 = "64 64 M 128 128 M 256 256 256 256 M 512 512 512 512 M 512 512 512 512"
HALF, QUARTER, FULL = {"width": 0.5}, {"width": 0.25}, {"affine": True, "use_bias": True}
BIAS, TEN, OLD = {"use_bias": True}, {"num_classes": 10}, {"version": "1.0"}
# Our factory and its options, the images' shape in torch, what running variances are about, the twin and its arguments;
# whether its dense layers are 1x1 convolutions.
NETWORKS = (
    ("resnet20", {}, (2, 3, 16, 16), 2, resnet, ((3,) * 3, 16, "", "linear")),
    ("resnet20", {"shortcut": "B"} | HALF | FULL, (2, 3, 8, 8), 2, resnet, ((3,) * 3, 8, "shortcut", "linear")),
    ("resnet32", HALF | FULL, (2, 3, 8, 8), 3, resnet, ((5,) * 3, 8, "", "fc")),
    ("resnet18", {"stem": "cifar"} | QUARTER | FULL, (2, 3, 16, 16), 2, resnet, ((2,) * 4, 16, "shortcut", "linear")),
    ("resnet18", QUARTER, (2, 3, 64, 64), 2, resnet, ((2,) * 4, 16, "downsample", "fc", 7)),
    ("resnet50", TEN | QUARTER | FULL, (8, 3, 128, 128), 3, resnet, ((3, 4, 6, 3), 16, "downsample", "fc", 7, True)),
    ("wide_resnet28_2", HALF | FULL, (2, 3, 8, 8), 3, wide_resnet, (8, "block{}.layer.{}", "convShortcut", "fc")),
    ("wide_resnet28_2", QUARTER, (2, 3, 8, 8), 3, wide_resnet, (4, "layer{}.{}", "shortcut.0", "linear")),
    ("mobilenet_v2", QUARTER | FULL, (2, 3, 16, 16), 2, mobilenet_v2, (0.25,)),
    ("vgg16", QUARTER | FULL, (2, 3, 32, 32), 1, vgg, (VGG16, 0.25)),
    ("vgg19", QUARTER, (2, 3, 32, 32), 1, vgg, (VGG19, 0.25), True),
    ("conv2", {"image_size": 16} | BIAS | QUARTER, (2, 3, 16, 16), 1, conv_net, (1, 0.25)),
    ("conv4", {"image_size": 16} | QUARTER, (2, 3, 16, 16), 1, conv_net, (2, 0.25), True),
    ("conv6", {"image_size": 16} | QUARTER, (2, 3, 16, 16), 1, conv_net, (3, 0.25)),
    ("lenet_300_100", {"input_size": 64} | BIAS, (2, 1, 8, 8), 1, lenet_300_100, ()),
    ("lenet_5", {"image_size": 20} | BIAS, (2, 1, 20, 20), 1, lenet_5, ()),
    ("squeezenet", TEN | HALF | BIAS, (2, 3, 33, 33), 1, squeezenet, (0.5, 64, 3, (3, 4, 6, 7, 9, 10, 11, 12))),
    ("squeezenet", OLD | TEN | HALF | BIAS, (2, 3, 33, 33), 1, squeezenet, (0.5, 96, 7, (3, 4, 5, 7, 8, 9, 10, 12))),
    ("inception_v3", TEN | QUARTER | FULL, (4, 3, 139, 139), 1, inception_v3, (0.25,)),
)  # fmt: skip


def run(factory, options, images, variance, twin, args, dense_as_conv=False):
    net = Net(options.get("affine", False), options.get("use_bias", False), dense_as_conv)
    x = torch.from_numpy(drawn("images", images, 1)).double()
    twin(net, x, *args)  # makes the layers
    tensors = {name: t for name, t in net.state_dict().items() if not name.endswith("num_batches_tracked")}
    for name, tensor in tensors.items():
        tensor.copy_(torch.from_numpy(drawn(name, tensor.shape, variance)))
    stored = {"factory": factory, "options": options, "images": images, "variance": variance}
    stored["tensors"] = " ".join(f"{name}:{'x'.join(map(str, t.shape))}" for name, t in tensors.items())
    for mode in ("eval", "train"):
        net.train = mode == "train"
        stored[mode] = np.round(twin(net, x, *args).numpy(), 6).tolist()
    moved = [name for name in tensors if ".running_" in name]  # by the last call
    stored["statistics"] = {name: np.round(tensors[name][:4].numpy(), 6).tolist() for name in moved[:2] + moved[-4:]}
    return stored


def main():
    with torch.no_grad():
        lines = [json.dumps(run(*network)) for network in NETWORKS]
    Path(__file__).with_name("torch_outputs.json").write_text("[\n" + ",\n".join(lines) + "\n]\n")


if __name__ == "__main__":
    main()
