"""Preparing CIFAR-10 from tiny archives, from files and from a server on this machine that may break off."""

import contextlib
import functools
import hashlib
import http.server
import io
import os
import subprocess
import sys
import tarfile
import threading

import numpy as np
import pytest

from rare_gems.data import prepare

NAMES = ["data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin", "data_batch_4.bin", "data_batch_5.bin"]


def make_files():
    """The archive's files with 2 records each; each is written byte by byte: red, green, blue."""
    files = {}
    for number, name in enumerate([*NAMES, "test_batch.bin"]):
        data = bytearray()
        for record in range(2):
            data.append(number)  # the label
            for channel in range(3):
                for row in range(32):
                    data += bytes((number + 3 * record + 40 * channel + row * 2 + column) % 256 for column in range(32))
        files[name] = bytes(data)
    files["batches.meta.txt"] = b"plane\ncar\nbird\ncat\ndeer\ndog\nfrog\nhorse\nship\ntruck\n\n"
    return files


def make_archive(path, files):
    with tarfile.open(path, "w:gz") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def archive(tmp_path):
    """(path, SHA-256) of a whole tiny archive."""
    path = tmp_path / "tiny.tar.gz"
    return path, make_archive(path, make_files())


@contextlib.contextmanager
def serve(content, whole_from):
    """Serves content on 127.0.0.1; requests before number `whole_from` (1-based) break off half way."""
    requests = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            requests.append(self.path)
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content if len(requests) >= whole_from else content[: len(content) // 2])

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/cifar.tar.gz", requests
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def assert_nothing_left(data_dir):
    assert [path for path in data_dir.rglob("*") if path.name != "cifar10"] == []


def test_tfds_reads_it(archive, tmp_path):
    import tensorflow_datasets as tfds

    path, digest = archive
    folder = prepare.cifar10(tmp_path / "tfds", url=path.as_uri(), sha256=digest)
    assert folder == tmp_path / "tfds" / "cifar10" / "3.0.2"
    data = tfds.data_source("cifar10", data_dir=tmp_path / "tfds")
    assert {name: len(split) for name, split in data.items()} == {"train": 10, "test": 2}
    example = data["train"][7]  # the second record of data_batch_4
    assert example["label"] == 3
    assert example["id"] == b"train_00007"
    assert example["image"].dtype == np.uint8
    for row, column, channel in ((0, 0, 0), (31, 0, 1), (5, 31, 2), (31, 31, 2)):
        assert example["image"][row, column, channel] == (3 + 3 + 40 * channel + row * 2 + column) % 256
    assert tfds.builder_from_directory(folder).info.features["label"].names[9] == "truck"
    assert "tensorflow" not in sys.modules


def test_prepared_once(archive, tmp_path):
    path, digest = archive
    folder = prepare.cifar10(tmp_path / "tfds", url=path.as_uri(), sha256=digest)
    before = {file: file.stat().st_mtime_ns for file in folder.iterdir()}
    path.unlink()
    assert prepare.cifar10(tmp_path / "tfds", url=path.as_uri(), sha256=digest) == folder
    assert {file: file.stat().st_mtime_ns for file in folder.iterdir()} == before
    assert [file.name for file in (tmp_path / "tfds" / "cifar10").iterdir()] == ["3.0.2"]


def test_two_runs_write_equal_files(archive, tmp_path):
    path, digest = archive
    one, two = (prepare.cifar10(tmp_path / name, url=path.as_uri(), sha256=digest) for name in "ab")
    names = sorted(file.name for file in one.iterdir())
    assert names == sorted(file.name for file in two.iterdir())
    for name in names:
        assert (one / name).read_bytes() == (two / name).read_bytes()


def test_wrong_checksum_is_refused(archive, tmp_path):
    path, digest = archive
    wrong = digest[::-1]
    with pytest.raises(ValueError, match=f"expected SHA-256 {wrong}, got {digest}"):
        prepare.cifar10(tmp_path / "tfds", url=path.as_uri(), sha256=wrong)
    assert_nothing_left(tmp_path / "tfds")


def test_cut_off_archive_is_refused(archive, tmp_path):
    path, digest = archive
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ValueError, match="wrong checksum"):
        prepare.cifar10(tmp_path / "tfds", url=path.as_uri(), sha256=digest)
    cut = hashlib.sha256(path.read_bytes()).hexdigest()  # even if the checksum were that of the cut archive
    with pytest.raises(ValueError, match="damaged archive"):
        prepare.cifar10(tmp_path / "tfds", url=path.as_uri(), sha256=cut)
    assert_nothing_left(tmp_path / "tfds")


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("data_batch_3.bin", None, "expected data_batch_3.bin in the CIFAR-10 archive"),
        ("data_batch_3.bin", bytes(3072), "records of 3073 bytes in data_batch_3.bin, got 3072 bytes"),
        ("data_batch_3.bin", b"", "got 0 bytes"),
        ("test_batch.bin", b"\x0a" + bytes(3072), r"labels 0\.\.9 in test_batch.bin, got 10"),
        ("batches.meta.txt", b"plane\ncar\n", "10 class names in batches.meta.txt, got 2"),
    ],
)
def test_unexpected_content_is_refused(tmp_path, name, data, message):
    files = make_files() | {name: data}
    path = tmp_path / "odd.tar.gz"
    digest = make_archive(path, {key: value for key, value in files.items() if value is not None})
    with pytest.raises(ValueError, match=message):
        prepare.cifar10(tmp_path / "tfds", url=path.as_uri(), sha256=digest)
    assert_nothing_left(tmp_path / "tfds")


def test_broken_download_starts_again(archive, tmp_path):
    path, digest = archive
    with serve(path.read_bytes(), whole_from=3) as (url, requests):
        folder = prepare.cifar10(tmp_path / "tfds", url=url, sha256=digest)
    assert len(requests) == 3
    assert (folder / "dataset_info.json").exists()


def test_download_that_always_breaks_off(archive, tmp_path):
    path, digest = archive
    size = path.stat().st_size
    with (
        serve(path.read_bytes(), whole_from=99) as (url, requests),
        pytest.raises(OSError, match=f"broke off 3 times: expected {size} bytes, got {size // 2}"),
    ):
        prepare.cifar10(tmp_path / "tfds", url=url, sha256=digest)
    assert len(requests) == 3
    assert_nothing_left(tmp_path / "tfds")


def test_nobody_answers(tmp_path):
    with serve(b"", whole_from=1) as (url, _):
        pass  # the port is closed again
    with pytest.raises(OSError, match="refused"):
        prepare.cifar10(tmp_path / "tfds", url=url, sha256="")
    assert_nothing_left(tmp_path / "tfds")


def test_real_checksum_is_the_one_tfds_knows():
    from pathlib import Path

    import tensorflow_datasets as tfds

    listed = Path(tfds.__file__).parent / "url_checksums" / "cifar10.txt"
    [line] = [line.split("\t") for line in listed.read_text().splitlines() if line.startswith(prepare.CIFAR10_URL)]
    assert line[2] == prepare.CIFAR10_SHA256


def test_command_line(archive, tmp_path, monkeypatch, capsys):
    path, digest = archive
    tiny = functools.partial(prepare.cifar10, url=path.as_uri(), sha256=digest)
    monkeypatch.setattr(prepare, "cifar10", tiny)
    assert prepare.main(["cifar10", "--data-dir", str(tmp_path / "tfds")]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "tfds" / "cifar10" / "3.0.2")
    path.write_bytes(b"something else")
    assert prepare.main(["cifar10", "--data-dir", str(tmp_path / "other")]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "cannot prepare cifar10: wrong checksum" in printed.err.splitlines()[-1]


def test_module_runs_as_a_command():
    command = [sys.executable, "-m", "rare_gems.data.prepare", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "JAX_PLATFORMS": "cpu"})
    assert done.returncode == 0
    assert "--data-dir" in done.stdout
    assert done.stderr == ""
