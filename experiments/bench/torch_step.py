"""The GEM-MINER step in PyTorch, channels last, to measure ours beside; torch is needed for nothing else here.

It runs in a process of its own: in one process the two libraries' threads wait for each other, and torch's step takes a
hundred times as long.
"""

import importlib
import importlib.util
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

__all__ = ["torch_stepper"]

_VGG16 = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0)


def torch_stepper(model: str, batch_size: int, image_size: int) -> Callable[[], None]:
    """A step of the search in a network of the same layers, on random images, with all threads of torch.

    Args:
      model: "resnet20" or "vgg16".
    Returns:
      a function that has one step done in another process and waits for it.
    Raises:
      ValueError: if torch is not installed.
    """
    if importlib.util.find_spec("torch") is None:
        raise ValueError("--against=torch: expected torch to be installed beside this; got none")
    command = [sys.executable, "-m", "experiments.bench.torch_step", model, str(batch_size), str(image_size)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def step() -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        print(file=process.stdin, flush=True)
        if process.stdout.readline() != "done\n":
            raise RuntimeError(f"the PyTorch process ended with status {process.wait()}")

    return step


def _make_step(model: str, batch_size: int, image_size: int) -> Callable[[], None]:
    torch: Any = importlib.import_module("torch")
    functional: Any = torch.nn.functional

    class Round(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, scores: Any) -> Any:
            return (scores >= 0.5).to(scores.dtype)

        @staticmethod
        def backward(ctx: Any, *grads: Any) -> Any:
            return grads[0]

    rng = np.random.default_rng(0)
    scores: list[Any] = []

    def layer(*shape: int) -> Callable[[], Any]:
        fan_in = int(np.prod(shape[1:]))
        weight = torch.from_numpy(rng.choice([-1.0, 1.0], shape).astype(np.float32)) * (2 / fan_in) ** 0.5
        score = torch.from_numpy(rng.random(shape, np.float32)).requires_grad_()
        if len(shape) == 4:
            weight = weight.to(memory_format=torch.channels_last)
            score = score.detach().to(memory_format=torch.channels_last).requires_grad_()
        scores.append(score)
        return lambda: weight * Round.apply(score)

    forward = {"resnet20": _resnet20, "vgg16": _vgg16}[model](functional, layer)

    images = torch.from_numpy(rng.standard_normal((batch_size, 3, image_size, image_size)).astype(np.float32))
    images = images.to(memory_format=torch.channels_last)
    labels = torch.from_numpy(rng.integers(0, 10, batch_size))
    optimizer = torch.optim.SGD(scores, lr=0.1, momentum=0.9, weight_decay=2e-4)  # the gradient of 1e-4 sum p^2

    def step() -> None:
        loss = functional.cross_entropy(forward(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            for score in scores:
                score.clamp_(0, 1)

    return step


def _norm(functional: Any, x: Any) -> Any:
    return functional.batch_norm(x, None, None, training=True)


def _resnet20(functional: Any, layer: Callable[..., Callable[[], Any]]) -> Callable[[Any], Any]:
    layers: list[Any] = []
    stem, inputs = layer(16, 3, 3, 3), 16
    for outputs in (16, 32, 64):
        for block in range(3):
            stride = 2 if block == 0 and outputs > 16 else 1
            layers.append((layer(outputs, inputs, 3, 3), layer(outputs, outputs, 3, 3), stride, outputs - inputs))
            inputs = outputs
    last = layer(10, 64)

    def forward(x: Any) -> Any:
        x = functional.relu(_norm(functional, functional.conv2d(x, stem(), padding=1)))
        for one, two, stride, extra in layers:
            y = functional.relu(_norm(functional, functional.conv2d(x, one(), stride=stride, padding=1)))
            y = _norm(functional, functional.conv2d(y, two(), padding=1))
            if stride > 1:
                x = functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, extra // 2, extra // 2))
            x = functional.relu(y + x)
        return x.mean((2, 3)) @ last().T

    return forward


def _vgg16(functional: Any, layer: Callable[..., Callable[[], Any]]) -> Callable[[Any], Any]:
    layers: list[Any] = []
    inputs = 3
    for outputs in _VGG16:
        layers.append(layer(outputs, inputs, 3, 3) if outputs else None)
        inputs = outputs or inputs
    last = layer(10, 512)

    def forward(x: Any) -> Any:
        for conv in layers:
            x = (
                functional.max_pool2d(x, 2)
                if conv is None
                else functional.relu(_norm(functional, functional.conv2d(x, conv(), padding=1)))
            )
        return x.mean((2, 3)) @ last().T

    return forward


if __name__ == "__main__":
    do = _make_step(sys.argv[1], *map(int, sys.argv[2:]))
    for _ in sys.stdin:  # which ends with the process that asks
        do()
        print("done", flush=True)
