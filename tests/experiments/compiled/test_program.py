"""Programs of runs, traced from shapes: here for CPU devices, which a compiler is always there for."""

import jax
import pytest

from experiments.compiled.child import figures, out_of_memory
from experiments.compiled.counts import count
from experiments.compiled.hlo import parse
from experiments.compiled.program import check_divides, lower, phases_of, program_of
from experiments.config.parse import parse as parse_flags
from experiments.terminal.errors import UsageError

SMALL = ["--model=lenet_300_100", "--batch-size=32"]


def config_of(*flags, dataset="digits"):
    return parse_flags(dataset, [*SMALL, *flags])[0]


def test_a_step_on_two_devices_reduces_the_gradients_and_little_else():
    config = config_of("--pruner=dense")
    program = program_of(config, phases_of(config)["finetune"], jax.devices()[:2])
    compiled = lower(program, "cpu").compile()
    found = count(parse(compiled.as_text()), "cpu")
    assert program.gradient_bytes == 4 * (64 * 300 + 300 + 300 * 100 + 100 + 100 * 10 + 10)
    assert set(found.collectives) == {"all-reduce"}
    assert program.gradient_bytes <= found.collective_bytes["all-reduce"] <= program.gradient_bytes + 64
    memory = figures(compiled.memory_analysis())
    carried = 3 * program.gradient_bytes  # weights, momentum, scores, whose biases are none: at least two of them
    assert memory["program_bytes"] > memory["argument_bytes"] > carried * 2 // 3 + 1437 * 64
    assert memory["alias_bytes"] > carried * 2 // 3  # the carry is donated
    assert program.held_bytes > 5 * program.gradient_bytes


def test_phases_of_methods():
    assert list(phases_of(config_of("--pruner=dense"))) == ["finetune"]
    assert list(phases_of(config_of("--pruner=gem_miner"))) == ["search", "finetune"]
    assert list(phases_of(config_of("--pruner=gem_miner", "--finetune-epochs=0"))) == ["search"]


@pytest.mark.parametrize("runs", [1, 2])
def test_large_weights_and_runs_lie_spread(runs):
    config = config_of("--pruner=random", *(["--shard-params"] if runs == 1 else []), dataset="mnist")
    program = program_of(config, phases_of(config)["finetune"], jax.devices()[:2], runs=runs, unit="epoch")
    assert program.num_steps == 60_000 // 32
    kernel = program.args[0].ticket.params["linear1"]["kernel"]
    assert program.args[0].step.shape == ()
    halved = kernel.sharding.shard_shape(kernel.shape)
    assert (len(kernel.shape) == 3) == (runs == 2)
    assert 2 * jax.numpy.prod(jax.numpy.array(halved)) == kernel.size


@pytest.mark.parametrize(
    ("flags", "runs", "told"),
    [
        (["--batch-size=30"], 1, r"--for=v5e:2x2: .* 4 devices; expected a --batch-size .* such as 32, got 30"),
        (["--devices=5"], 1, "--devices: expected at most the 4"),
        (["--shard-params"], 2, "--shard-params: spreads one run"),
        (["--shard-params", "--devices=1"], 1, "--shard-params: expected several devices"),
    ],
)
def test_what_cannot_be_spread_is_refused(flags, runs, told):
    with pytest.raises(UsageError, match=told):
        check_divides(config_of("--pruner=random", *flags), "v5e:2x2", 4, runs)
    check_divides(config_of("--pruner=random", "--batch-size=30"), "v5e:2x2", 4, 4)  # a run on each


def test_how_compilers_say_that_memory_is_short():
    message = "the total memory required for HLO temporaries (640.00G) exceeds available HBM (15.25G)."
    assert out_of_memory(message) == 640 * 2**30
    assert out_of_memory("Used 512.5M of 15.75G hbm. Exceeded") == 512.5 * 2**20
    assert out_of_memory("INTERNAL: ptxas") is None
