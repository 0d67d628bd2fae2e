"""Bytes of compiled steps, counted by hand, and the least that a network has to move."""

import functools

import jax
import jax.numpy as jnp
import pytest

from experiments.bench import step
from experiments.bench.__main__ import main
from experiments.bench.step_bytes import Passes, least_bytes, passes_of
from rare_gems.models.conv_net import conv2
from rare_gems.models.lenet import lenet_300_100

TEXT = """HloModule step

%sums (a: f32[256,64]) -> f32[64] {
  %a = f32[256,64]{1,0} parameter(0)
  %zero = f32[] constant(0)
  ROOT %r = f32[64]{0} reduce(%a, %zero), dimensions={0}, to_apply=%add
}

%apart (x: f32[256,64]) -> f32[256,192] {
  %x = f32[256,64]{1,0} parameter(0)
  ROOT %beside = f32[256,192]{1,0} concatenate(%x, %x, %x), dimensions={1}
}

ENTRY %main (x: f32[256,64], k: f32[64,64], b: f32[64]) -> f32[64] {
  %x = f32[256,64]{1,0} parameter(0)
  %k = f32[64,64]{1,0} parameter(1)
  %b = f32[64]{0} parameter(2)
  %y = f32[256,64]{1,0} dot(%x, %k), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  %same = f32[256,64]{1,0} bitcast(%y)
  %three = f32[256,192]{1,0} call(%same), to_apply=%apart
  %short = f32[64]{0} negate(%b)
  ROOT %s = f32[64]{0} fusion(%y), kind=kLoop, calls=%sums
}
"""


def test_what_is_read_and_written_by_kind():
    """x and y have 65,536 bytes, k has 16,384; what is short, free, or a call itself is not counted."""
    assert passes_of(TEXT) == {
        "element-wise": Passes(1, 3 * 65_536 + 3 * 65_536),
        "product": Passes(1, 2 * 65_536 + 16_384),
        "reduction": Passes(1, 65_536 + 256),
    }


def test_the_least_of_a_network_by_hand():
    """Conv-2 of two images: I and A of its convolutions are 384 and 8,192, then 8,192 and 8,192 numbers."""
    model = conv2(image_size=8)
    assert least_bytes(model, (2, 8, 8, 3)) == 4 * (2 * 384 + 7 * 8192 + 3 * 8192 + 7 * 8192)
    with pytest.raises(ValueError, match="expected a network with convolutions"):
        least_bytes(lenet_300_100(10, input_size=64), (2, 8, 8, 1))


def test_the_flag(capsys, monkeypatch):
    monkeypatch.setattr(step, "resnet20", functools.partial(conv2, image_size=8))
    assert main(["step", "--batch-size=2", "--image-size=8", "--repeats=1", "--give-back-memory", "--bytes"]) == 0
    shown = capsys.readouterr().out
    assert "product:" in shown
    assert "the least 0.00 GB" in shown
    assert "floor of both" in shown


def test_a_real_program_moves_at_least_its_arguments_and_results():
    x = jnp.ones((128, 256))
    passes = passes_of(jax.jit(lambda x: jnp.tanh(x) @ x.T).lower(x).compile().as_text() or "")
    assert sum(one.bytes for one in passes.values()) >= x.nbytes + 4 * 128 * 128
