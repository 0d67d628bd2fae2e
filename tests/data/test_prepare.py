"""Preparing data sets from tiny originals, from files and from a server on this machine that may break off."""

import contextlib
import functools
import gzip
import http.server
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from rare_gems.data import cifar, cifar_archives, download, mnist, prepare
from tests.data import tiny


@pytest.fixture
def archive(tmp_path):
    """(path, SHA-256) of a whole tiny archive of CIFAR-10."""
    path = tmp_path / "tiny.tar.gz"
    return path, tiny.make_archive(path, tiny.cifar10_files(), "cifar-10-batches-bin")


@contextlib.contextmanager
def serve(folder, whole_from):
    """Serves a folder on 127.0.0.1; requests for a file before number `whole_from` (1-based) break off half way."""
    requests = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            requests.append(self.path.strip("/"))
            content = (folder / requests[-1]).read_bytes()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            whole = requests.count(requests[-1]) >= whole_from
            self.wfile.write(content if whole else content[: len(content) // 2])

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/", requests
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_tfds_reads_cifar10(archive, tmp_path):
    import tensorflow_datasets as tfds

    path, digest = archive
    folder = cifar.prepare_cifar10(tmp_path / "tfds", url=path.as_uri(), sha256=digest)
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


def test_tfds_reads_cifar100(tmp_path):
    import tensorflow_datasets as tfds

    path = tmp_path / "tiny.tar.gz"
    digest = tiny.make_archive(path, tiny.cifar100_files(), "cifar-100-binary")
    folder = cifar.prepare_cifar100(tmp_path / "tfds", url=path.as_uri(), sha256=digest)
    builder = tfds.builder("cifar100", data_dir=tmp_path / "tfds")  # TFDS's own class looks for its own version
    assert Path(builder.data_dir) == folder
    assert list(builder.info.features) == ["id", "image", "label", "coarse_label"]
    assert builder.info.features["label"].names[99] == "fine_99"
    assert builder.info.features["coarse_label"].names == [f"coarse_{i}" for i in range(20)]
    data = builder.as_data_source()
    assert [(int(e["coarse_label"]), int(e["label"])) for e in data["train"]] == [(19, 99), (0, 7), (3, 0)]
    assert [(e["id"], int(e["label"])) for e in data["test"]] == [(b"test_00000", 98), (b"test_00001", 1)]
    assert data["test"][1]["image"][5, 31].tolist() == [9 + 10 + 31, 9 + 40 + 10 + 31, 9 + 80 + 10 + 31]
    assert "tensorflow" not in sys.modules


def test_tfds_reads_mnist(tmp_path):
    import tensorflow_datasets as tfds

    sha256 = tiny.write_mnist(tmp_path / "files", tiny.mnist_files())
    folder = mnist.prepare_mnist(tmp_path / "tfds", url=(tmp_path / "files").as_uri() + "/", sha256=sha256)
    builder = tfds.builder("mnist", data_dir=tmp_path / "tfds")
    assert Path(builder.data_dir) == folder
    assert list(builder.info.features) == ["image", "label"]
    data = builder.as_data_source()
    assert [int(example["label"]) for example in data["train"]] == [5, 0, 4, 9]
    assert [int(example["label"]) for example in data["test"]] == [7, 2, 1]
    image = data["test"][0]["image"]
    assert image.shape == (28, 28, 1)
    assert image[2, 3, 0] == 3 * 7 + 2 * 28 + 3
    assert "tensorflow" not in sys.modules


def test_prepared_once(archive, tmp_path):
    path, digest = archive
    folder = cifar.prepare_cifar10(tmp_path / "tfds", url=path.as_uri(), sha256=digest)
    before = {file: file.stat().st_mtime_ns for file in folder.iterdir()}
    path.unlink()
    assert cifar.prepare_cifar10(tmp_path / "tfds", url=path.as_uri(), sha256=digest) == folder
    assert {file: file.stat().st_mtime_ns for file in folder.iterdir()} == before
    assert [file.name for file in (tmp_path / "tfds" / "cifar10").iterdir()] == ["3.0.2"]


def test_two_runs_write_equal_files(archive, tmp_path):
    path, digest = archive
    one, two = (cifar.prepare_cifar10(tmp_path / name, url=path.as_uri(), sha256=digest) for name in "ab")
    names = sorted(file.name for file in one.iterdir())
    assert names == sorted(file.name for file in two.iterdir())
    for name in names:
        assert (one / name).read_bytes() == (two / name).read_bytes()


def test_wrong_checksum_is_refused(archive, tmp_path):
    path, digest = archive
    wrong = digest[::-1]
    with pytest.raises(ValueError, match=f"expected SHA-256 {wrong}, got {digest}"):
        cifar.prepare_cifar10(tmp_path / "some" / "tfds", url=path.as_uri(), sha256=wrong)
    assert list(tmp_path.iterdir()) == [path]


def test_wrong_checksum_of_one_of_four_files_is_refused(tmp_path):
    sha256 = tiny.write_mnist(tmp_path / "files", tiny.mnist_files())
    name = "t10k-labels-idx1-ubyte.gz"
    url = (tmp_path / "files").as_uri() + "/"
    wrong = sha256 | {name: "0" * 64}
    with pytest.raises(
        ValueError, match=f"wrong checksum of .*/{name} .*: expected SHA-256 0{{64}}, got {sha256[name]}"
    ):
        mnist.prepare_mnist(tmp_path / "tfds", url=url, sha256=wrong)
    assert not (tmp_path / "tfds").exists()


def test_a_failed_run_leaves_what_was_there(archive, tmp_path):
    path, _ = archive
    (tmp_path / "tfds" / "cifar10").mkdir(parents=True)  # empty, but not ours
    (tmp_path / "tfds" / "cifar100").mkdir()
    (tmp_path / "tfds" / "cifar100" / "note").write_text("mine")
    for make in (cifar.prepare_cifar10, cifar.prepare_cifar100):
        with pytest.raises(ValueError, match="wrong checksum"):
            make(tmp_path / "tfds", url=path.as_uri(), sha256="")
    assert sorted(file.name for file in (tmp_path / "tfds").rglob("*")) == ["cifar10", "cifar100", "note"]


def test_cut_off_archive_is_refused(archive, tmp_path):
    path, digest = archive
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ValueError, match="wrong checksum"):
        cifar.prepare_cifar10(tmp_path / "tfds", url=path.as_uri(), sha256=digest)
    cut = tiny.checksums(tmp_path)[path.name]  # even if the checksum were that of the cut archive
    with pytest.raises(ValueError, match=r"damaged archive cifar10\.tar\.gz: "):
        cifar.prepare_cifar10(tmp_path / "tfds", url=path.as_uri(), sha256=cut)
    assert list(tmp_path.iterdir()) == [path]


FINE = "fine_label_names.txt"


@pytest.mark.parametrize(
    ("make", "name", "data", "message"),
    [
        ("cifar10", "data_batch_3.bin", None, "expected data_batch_3.bin in the CIFAR-10 archive"),
        ("cifar10", "data_batch_3.bin", bytes(3072), "records of 3073 bytes in data_batch_3.bin, got 3072 bytes"),
        ("cifar10", "data_batch_3.bin", b"", "got 0 bytes"),
        ("cifar10", "test_batch.bin", b"\x0a" + bytes(3072), r"labels 0\.\.9 in test_batch.bin, got 10"),
        ("cifar10", "batches.meta.txt", b"plane\ncar\n", "10 class names in batches.meta.txt, got 2"),
        ("cifar100", "train.bin", None, "expected train.bin in the CIFAR-100 archive"),
        ("cifar100", "train.bin", bytes(3073), "records of 3074 bytes in train.bin, got 3073 bytes"),
        ("cifar100", "test.bin", b"\x14" + bytes(3073), r"labels 0\.\.19 in test.bin, got 20"),
        ("cifar100", "test.bin", b"\x00\x64" + bytes(3072), r"labels 0\.\.99 in test.bin, got 100"),
        ("cifar100", FINE, b"same\n" * 100, f"100 class names in {FINE}, got 1"),
    ],
)
def test_unexpected_content_is_refused(tmp_path, make, name, data, message):
    files = {"cifar10": tiny.cifar10_files, "cifar100": tiny.cifar100_files}[make]() | {name: data}
    path = tmp_path / "odd.tar.gz"
    digest = tiny.make_archive(path, {key: value for key, value in files.items() if value is not None}, "folder")
    with pytest.raises(ValueError, match=message):
        getattr(cifar, f"prepare_{make}")(tmp_path / "tfds", url=path.as_uri(), sha256=digest)
    assert list(tmp_path.iterdir()) == [path]


IMAGES, LABELS = "t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (IMAGES, lambda data: data[:-1], rf"expected 2352 bytes for shape \(3, 28, 28\) in {IMAGES}, got 2351"),
        (IMAGES, lambda data: data + b"x", "got 2353"),
        (IMAGES, lambda data: b"", f"an idx file that begins with 00000803 in {IMAGES}, got $"),
        (IMAGES, lambda data: data[:9], f"begins with 00000803 in {IMAGES}, got 00000803"),
        (IMAGES, lambda data: b"\x00\x00\x0d\x03" + data[4:], "got 00000d03"),  # float32
        (IMAGES, lambda data: data[:8] + b"\x00\x00\x00\x0e\x00\x00\x00\x38" + data[16:], r"got shape \(3, 14, 56\)"),
        (IMAGES, lambda data: data[:4] + bytes(4) + data[8:16], r"got shape \(0, 28, 28\)"),
        (IMAGES, lambda data: data[:4] + b"\xff" * 12, "expected 79228162458924105385300197375 bytes"),
        (LABELS, lambda data: data[:4] + b"\x00\x00\x00\x02" + data[8:-1], f"expected 3 labels in {LABELS}, got 2"),
        (LABELS, lambda data: data[:-1] + b"\x0a", rf"expected labels 0\.\.9 in {LABELS}, got 10"),
    ],
)
def test_unexpected_idx_file_is_refused(tmp_path, name, change, message):
    files = tiny.mnist_files()
    sha256 = tiny.write_mnist(tmp_path / "files", files | {name: change(files[name])})
    with pytest.raises(ValueError, match=message):
        mnist.prepare_mnist(tmp_path / "tfds", url=(tmp_path / "files").as_uri() + "/", sha256=sha256)
    assert [path.name for path in tmp_path.iterdir()] == ["files"]


@pytest.mark.parametrize("damage", [lambda data: data[:-20], lambda data: data[:60] + b"\xff" * 9 + data[69:], len])
def test_damaged_gzip_file_is_refused(tmp_path, damage):
    tiny.write_mnist(tmp_path / "files", tiny.mnist_files())
    file = tmp_path / "files" / IMAGES
    file.write_bytes(b"no gzip file" if damage is len else damage(file.read_bytes()))
    sha256 = tiny.checksums(tmp_path / "files")
    with pytest.raises(ValueError, match=f"damaged file {IMAGES}: "):
        mnist.prepare_mnist(tmp_path / "tfds", url=(tmp_path / "files").as_uri() + "/", sha256=sha256)
    assert not (tmp_path / "tfds").exists()


def test_broken_download_starts_again(archive, tmp_path):
    path, digest = archive
    with serve(tmp_path, whole_from=3) as (url, requests):
        folder = cifar.prepare_cifar10(tmp_path / "tfds", url=url + path.name, sha256=digest)
    assert requests == [path.name] * 3
    assert (folder / "dataset_info.json").exists()


def test_each_of_four_broken_downloads_starts_again(tmp_path):
    sha256 = tiny.write_mnist(tmp_path / "files", tiny.mnist_files())
    with serve(tmp_path / "files", whole_from=2) as (url, requests):
        folder = mnist.prepare_mnist(tmp_path / "tfds", url=url, sha256=sha256)
    assert sorted(requests) == sorted(tiny.MNIST_FILES * 2)
    assert (folder / "dataset_info.json").exists()


def test_download_that_always_breaks_off(archive, tmp_path):
    path, digest = archive
    size = path.stat().st_size
    with (
        serve(tmp_path, whole_from=99) as (url, requests),
        pytest.raises(OSError, match=f"broke off 3 times: expected {size} bytes, got {size // 2}"),
    ):
        cifar.prepare_cifar10(tmp_path / "tfds", url=url + path.name, sha256=digest)
    assert len(requests) == 3
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("make", [cifar.prepare_cifar10, cifar.prepare_cifar100, mnist.prepare_mnist])
def test_nobody_answers(tmp_path, make):
    with serve(tmp_path, whole_from=1) as (url, _):
        pass  # the port is closed again
    with pytest.raises(OSError, match="refused"):
        make(tmp_path / "tfds", url=url)
    assert list(tmp_path.iterdir()) == []


def test_another_process_was_faster(archive, tmp_path):
    path, digest = archive
    first = cifar.prepare_cifar10(tmp_path / "first", url=path.as_uri(), sha256=digest)
    target = tmp_path / "tfds" / "3.0.2"

    def fill(scratch, folder):
        (folder / "file").write_text("late")
        first.rename(target)

    assert download.whole_folder(target, lambda folder: (folder / "features.json").exists(), fill) == target
    assert not (target / "file").exists()
    assert [file.name for file in target.parent.iterdir()] == ["3.0.2"]


def test_real_checksums_are_those_tfds_knows():
    import tensorflow_datasets as tfds

    ours = {
        cifar.CIFAR10_URL: cifar.CIFAR10_SHA256,
        cifar.CIFAR100_URL: cifar.CIFAR100_SHA256,
    } | {mnist.MNIST_URL + name: digest for name, digest in mnist.MNIST_SHA256.items()}
    folder, listed = Path(tfds.__file__).parent / "url_checksums", {}
    for name in ("cifar10", "cifar100", "mnist"):
        for line in (folder / f"{name}.txt").read_text().splitlines():
            url, _, digest, _ = line.split("\t")
            listed[url] = digest
    assert ours == {url: listed[url] for url in ours}
    assert len(ours) == 6


def test_command_line(archive, tmp_path, monkeypatch, capsys):
    path, digest = archive
    here = functools.partial(cifar.prepare_cifar10, url=path.as_uri(), sha256=digest)
    monkeypatch.setattr(prepare, "prepare_cifar10", here)
    assert prepare.main(["cifar10", "--data-dir", str(tmp_path / "tfds")]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "tfds" / "cifar10" / "3.0.2")
    path.write_bytes(b"something else")
    assert prepare.main(["cifar10", "--data-dir", str(tmp_path / "other")]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "cannot prepare cifar10: wrong checksum" in printed.err.splitlines()[-1]


@pytest.mark.parametrize("name", ["cifar100", "mnist"])
def test_command_line_knows(name, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(download.urllib.request, "urlopen", lambda url, timeout: (_ for _ in ()).throw(OSError(url)))
    assert prepare.main([name, "--data-dir", str(tmp_path)]) == 2
    url = cifar.CIFAR100_URL if name == "cifar100" else mnist.MNIST_URL
    assert f"cannot prepare {name}: {url}" in capsys.readouterr().err.splitlines()[-1]


def test_module_runs_as_a_command():
    command = [sys.executable, "-m", "rare_gems.data.prepare", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "JAX_PLATFORMS": "cpu"})
    assert done.returncode == 0
    assert "--data-dir" in done.stdout
    for name in ("cifar10", "cifar100", "mnist"):
        assert name in done.stdout
        assert callable(getattr({"mnist": mnist}.get(name, cifar), name))
    assert done.stderr == ""


def test_idx_files_packed_or_not_and_what_is_said_of_those_that_are_not_there(tmp_path):
    content = tiny.mnist_files()[IMAGES]
    (tmp_path / "packed").write_bytes(gzip.compress(content))
    (tmp_path / "unpacked").write_bytes(content)
    packed, unpacked = (mnist.parse_idx(tmp_path / name, 3) for name in ("packed", "unpacked"))
    np.testing.assert_array_equal(packed, unpacked)
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    for name, message in (
        ("absent", rf"^{tmp_path}/absent cannot be read \(No such file or directory\); expected an idx file$"),
        ("folder", rf"^{tmp_path}/folder cannot be read \(Is a directory\); expected an idx file$"),
        ("empty", "^empty file empty; expected an idx file$"),
    ):
        with pytest.raises(ValueError, match=message):
            mnist.parse_idx(tmp_path / name, 3)


def test_archives_that_are_not_there_or_are_another(tmp_path):
    with pytest.raises(ValueError, match=r"absent cannot be read \(No such file .*\); expected the CIFAR-10 archive"):
        cifar_archives.parse_cifar10(tmp_path / "absent")
    pickles = {f"data_batch_{i}": b"pickled" for i in range(1, 6)}  # the archive of the Python version
    tiny.make_archive(tmp_path / "python.tar.gz", pickles, "cifar-10-batches-py")
    with pytest.raises(ValueError, match=r"^expected data_batch_1\.bin, .* archive, the binary version, got \[\]$"):
        cifar_archives.parse_cifar10(tmp_path / "python.tar.gz")


def test_a_part_of_a_data_set_is_told_before_anything_is_downloaded(archive, tmp_path):
    """Once at the end of each download, which was thrown away."""
    path, digest = archive
    folder = cifar.prepare_cifar10(tmp_path, url=path.as_uri(), sha256=digest)
    (folder / "dataset_info.json").unlink()
    with pytest.raises(ValueError, match="expected a whole data set or none, got a part; remove it, or copy it whole"):
        cifar.prepare_cifar10(tmp_path, url="file:///nowhere", sha256=digest)
