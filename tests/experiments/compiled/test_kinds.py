"""`--for`: the kinds of devices, how many there are, and the compilers that they need."""

import importlib.util

import pytest

from experiments.compiled.compilers import check_installed, environment, gpu_config
from experiments.compiled.kinds import KINDS, parse_target
from experiments.terminal.errors import UsageError


@pytest.mark.parametrize(
    ("text", "topology", "num"),
    [("h200", (1,), 1), ("H200:8", (8,), 8), ("v5e:8x8", (8, 8), 64), ("v5e", (1, 1), 1), ("v5p:2x2x4", (2, 2, 4), 16)],
)
def test_kinds_and_numbers_of_devices(text, topology, num):
    target = parse_target(text)
    assert (target.topology, target.num_devices) == (topology, num)


@pytest.mark.parametrize("text", ["h300", "", "v5e:2", "v5e:0x2", "h200:2x2", "v5e:2x2x", "v5e:-1x2", "v5e:"])
def test_what_is_no_device_says_what_is(text):
    with pytest.raises(UsageError, match=r"--for: expected a (kind of device, one of v5e, .*h200|number of devices)"):
        parse_target(text)


def test_every_kind_says_its_memory_and_where_that_is_from():
    for kind in KINDS.values():
        assert 10 * 2**30 < kind.usable <= kind.memory < 200 * 2**30
        assert kind.source
    assert KINDS["v5e"].usable == 15.75 * 2**30
    assert KINDS["h200"].usable == 0.75 * 141e9
    assert [kind.name for kind in KINDS.values() if kind.platform == "cuda"] == [
        kind.name for kind in KINDS.values() if kind.gpu and f"device_memory_size: {kind.memory}" in gpu_config(kind)
    ]


@pytest.mark.parametrize(("text", "extra"), [("v5e:2x2", "compile-tpu"), ("h200", "compile-gpu")])
def test_a_compiler_that_is_not_installed_is_named_with_the_command(text, extra, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=rf"--for={text}: the compiler .* pip install -e '.\[{extra}\]'"):
        check_installed(parse_target(text))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    check_installed(parse_target(text))


def test_the_compiling_process_has_no_device_and_no_cache():
    given = {"JAX_COMPILATION_CACHE_DIR": "/c", "RARE_GEMS_ONEDNN": "1", "JAX_PLATFORMS": "cuda", "HOME": "/h"}
    made = environment(parse_target("h200"), given)
    assert made["JAX_PLATFORMS"] == "cpu"
    assert made["HOME"] == "/h"
    assert not {"JAX_COMPILATION_CACHE_DIR", "RARE_GEMS_ONEDNN"} & set(made)
    assert environment(parse_target("v5e"), {})["TPU_SKIP_MDS_QUERY"] == "1"
