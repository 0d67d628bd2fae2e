"""The process that compiles, and what is made of its answer: where it crashes, one line says so."""

import json
import stat
import sys

import pytest

from experiments.compiled.apart import Request, answered, compile_apart
from experiments.compiled.fit import advice, fit_of, told
from experiments.compiled.kinds import parse_target
from experiments.config.config import Config
from experiments.config.saved import from_fields
from experiments.terminal.errors import UsageError

GIB = 2**30
REQUEST = Request(Config("digits", batch_size=64), parse_target("v5e:2x2"), "search", 2)


@pytest.fixture
def compiler(tmp_path, monkeypatch):
    """Puts a shell script in place of Python."""

    def become(script):
        file = tmp_path / "python"
        file.write_text(f"#!/bin/sh\n{script}\n")
        file.chmod(file.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setattr(sys, "executable", str(file))

    return become


def test_a_crash_is_one_line(compiler):
    compiler("echo one >&2; echo 'F1129 check failed:  layout' >&2; kill -SEGV $$")
    answer = compile_apart(REQUEST, 10)
    assert answer == {"error": "the compiler ended with signal SIGSEGV: F1129 check failed: layout"}


def test_a_compiler_without_end_is_ended(compiler):
    compiler("exec sleep 60")
    assert compile_apart(REQUEST, 0.2) == {"error": "the compiler was not ready after 0.2 s"}


def test_the_answer_is_handed_on_and_the_request_arrives_whole(compiler, tmp_path):
    compiler(f'read line; printf "%s" "$line" > {tmp_path}/request; printf "{{\\"steps\\": 1}}" > "$3"')
    assert compile_apart(REQUEST, 10) == {"steps": 1}
    request = json.loads((tmp_path / "request").read_text())
    assert from_fields(request["config"]) == REQUEST.config
    assert {name: request[name] for name in ("for", "phase", "runs", "unit")} == {
        "for": "v5e:2x2", "phase": "search", "runs": 2, "unit": "step",
    }  # fmt: skip


def test_what_the_process_refuses_is_the_users_mistake(tmp_path):
    out = tmp_path / "answer.json"
    assert answered(out, 3, "") == {"error": "the compiler ended with status 3: it said nothing"}
    out.write_text('{"refused": "--batch-size: expected"}')
    with pytest.raises(UsageError, match="--batch-size"):
        answered(out, 0, "")


def test_a_run_fits_or_does_not_by_so_much():
    target, config = parse_target("v5e:2x2"), Config("digits", batch_size=64)
    fit = fit_of({"program_bytes": 10 * GIB, "held_bytes": 5 * GIB}, target)
    assert fit.fits
    assert "95.2 % of the 15.75 GiB" in told(fit, config, target, 1)
    fit = fit_of({"program_bytes": 12 * GIB, "held_bytes": 5 * GIB}, target)
    assert not fit.fits
    assert "1.25 GiB more than the 15.75 GiB" in told(fit, config, target, 1)
    refused = fit_of({"error": "RESOURCE_EXHAUSTED", "needed_bytes": 20 * GIB}, target)
    assert not refused.fits
    assert refused.needed == 20 * GIB
    assert fit_of({"error": "INTERNAL"}, target) is None


def test_what_may_help_is_what_is_not_done_yet():
    target = parse_target("v5e:2x2")
    config = Config("digits", batch_size=64)
    assert advice(config, target, 1) == ["--batch-size below 64", "--precision=bfloat16", "--shard-params"]
    done = Config("digits", batch_size=4, precision="bfloat16", shard_params=True)
    assert advice(done, target, 1) == []
    assert advice(Config("digits", batch_size=1), parse_target("t4"), 8) == [
        "--at-once below 8", "--precision=bfloat16", "several devices",
    ]  # fmt: skip
