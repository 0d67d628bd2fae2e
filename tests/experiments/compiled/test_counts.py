"""Counts of compiled text: of excerpts as the compilers for GPUs and TPUs print them, and of a program of this CPU."""

from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from experiments.compiled.counts import count, loop_body
from experiments.compiled.hlo import bytes_of, parse

EXCERPTS = Path(__file__).parent / "excerpts"
KERNEL = 3 * 3 * 16 * 16  # elements


@pytest.fixture(scope="module")
def h200():
    return parse((EXCERPTS / "h200.txt").read_text())


@pytest.fixture(scope="module")
def v5e():
    return parse((EXCERPTS / "v5e.txt").read_text())


def test_kernels_of_a_gpu_by_what_they_do(h200):
    found = count(h200, "cuda")
    assert found.kernels == {"element-wise": 1, "transpose": 1, "product": 1, "reduction": 1, "copy": 2}
    assert found.num_kernels == 6
    assert (found.copies, found.copy_bytes) == (1, KERNEL)  # of the branch; that of the step is a scalar
    assert not found.collectives


def test_a_conditional_asks_the_host_on_a_gpu_and_the_longest_branch_is_counted_too(h200):
    least, most = count(h200, "cuda"), count(h200, "cuda", branch="most")
    assert (least.conditionals, least.host_syncs) == (1, 1)
    assert most.num_kernels == least.num_kernels + 1  # a copy, and the comparison of the loop
    assert most.host_syncs == 2  # the loop's number of turns is not known, so that each asks
    assert count(h200, "tpu").host_syncs == 0


def test_an_epoch_is_a_loop_whose_body_is_the_step(v5e):
    body = loop_body(v5e, 391)
    assert body == "region_0.body"
    assert loop_body(v5e, 390) is None
    step, epoch = count(v5e, "tpu", body), count(v5e, "tpu")
    assert step.kernels == {"copy": 1, "product": 1, "collective": 3}
    assert step.scalars == 2
    assert epoch.kernels == {name: 391 * number for name, number in step.kernels.items()}
    assert epoch.host_syncs == 0


def test_collectives_have_the_bytes_that_they_reduce_or_gather(v5e):
    step = count(v5e, "tpu", "region_0.body")
    assert step.collectives == {"all-reduce": 1, "all-gather": 2}  # one fused, one in two parts
    assert step.collective_bytes == {"all-reduce": 4 * (64 * 300 + 1), "all-gather": 2 * 4 * 64 * 100}
    assert ("all-reduce", 4 * (64 * 300 + 1), "jit(_epoch)/while/body/transpose(jvp())/dot_general") in step.places
    assert step.as_dict()["places"][0][0] == "all-reduce"  # the largest first
    assert (step.copies, step.copy_bytes) == (1, 4 * 64 * 300)


@pytest.mark.parametrize(
    ("shape", "size"),
    [("f32[]", 4), ("pred[3,2]{1,0}", 6), ("s4[3]", 2), ("f8e4m3fn[8]{0}", 8), ("bf16[2,<=3]", 12),
     ("(u8[0]{0}, (c64[2], token[]))", 16), ("u32[2]{0:T(128)S(1)}", 8)],
)  # fmt: skip
def test_bytes_of_printed_shapes(shape, size):
    assert bytes_of(shape) == size


def test_what_is_no_program_is_refused():
    with pytest.raises(ValueError, match="ENTRY"):
        parse("%f (x: f32[]) -> f32[] {\n}\n")


def test_the_text_of_a_program_of_this_machine():
    """A mean over the rows of four devices in a loop of five turns: an all-reduce of one row each time."""
    mesh = jax.make_mesh((4,), ("rows",), (jax.sharding.AxisType.Explicit,), devices=jax.devices()[:4])
    sharded = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("rows"))
    alike = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())

    def fn(w, x):
        def turn(w, _):
            row = jax.lax.with_sharding_constraint((x * jnp.tanh(w)[None]).mean(axis=0), alike)
            return row, None

        return jax.lax.scan(turn, w, length=5)[0]

    given = jax.ShapeDtypeStruct((12,), jnp.float32, sharding=alike), jax.ShapeDtypeStruct((8, 12), jnp.float32,
                                                                                          sharding=sharded)  # fmt: skip
    module = parse(jax.jit(fn, out_shardings=alike).lower(*given).compile().as_text())
    body = loop_body(module, 5)
    step, whole = count(module, "cpu", body), count(module, "cpu")
    assert step.collectives == {"all-reduce": 1}
    assert step.collective_bytes == {"all-reduce": 12 * 4}
    assert whole.collective_bytes == {"all-reduce": 5 * 12 * 4}
    assert (step.conditionals, step.host_syncs) == (0, 0)
