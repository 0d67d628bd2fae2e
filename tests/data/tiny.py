"""Tiny originals of the data sets, byte by byte, to prepare and to damage."""

import gzip
import hashlib
import io
import tarfile

CIFAR10_FILES = [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]
MNIST_FILES = [f"{split}-{kind}-ubyte.gz" for split in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]


def cifar_record(labels, start):
    """The label bytes, then red, green and blue: (start + 40 channel + 2 row + column) mod 256 each."""
    data = bytearray(labels)
    for channel in range(3):
        for row in range(32):
            data += bytes((start + 40 * channel + 2 * row + column) % 256 for column in range(32))
    return bytes(data)


def cifar10_files():
    """The archive's files with 2 records each, of the file's number as label; the second is brighter by 3."""
    files = {}
    for number, name in enumerate(CIFAR10_FILES):
        files[name] = cifar_record([number], number) + cifar_record([number], number + 3)
    files["batches.meta.txt"] = b"plane\ncar\nbird\ncat\ndeer\ndog\nfrog\nhorse\nship\ntruck\n\n"
    return files


def cifar100_files():
    """Three records to train on and two to test; the coarse label comes before the fine one."""
    return {
        "train.bin": cifar_record([19, 99], 5) + cifar_record([0, 7], 6) + cifar_record([3, 0], 7),
        "test.bin": cifar_record([11, 98], 8) + cifar_record([2, 1], 9),
        "fine_label_names.txt": b"".join(b"fine_%d\n" % i for i in range(100)),
        "coarse_label_names.txt": b"".join(b"coarse_%d\n" % i for i in range(20)),
    }


def make_archive(path, files, folder):
    """Writes files into a .tar.gz; returns its SHA-256."""
    with tarfile.open(path, "w:gz") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return hashlib.sha256(path.read_bytes()).hexdigest()


def mnist_files():
    """Contents of the four files, not yet compressed: four images to train on and three to test."""
    files = {}
    for split, labels in (("train", b"\x05\x00\x04\x09"), ("t10k", b"\x07\x02\x01")):
        pixels = b"".join(bytes((3 * label + p) % 256 for p in range(28 * 28)) for label in labels)
        count = bytes([0, 0, 0, len(labels)])
        header = b"\x00\x00\x08\x03" + count + b"\x00\x00\x00\x1c\x00\x00\x00\x1c"
        files[f"{split}-images-idx3-ubyte.gz"] = header + pixels
        files[f"{split}-labels-idx1-ubyte.gz"] = b"\x00\x00\x08\x01" + count + labels
    return files


def write_mnist(folder, files):
    """Compresses the files into folder; returns their SHA-256, by name."""
    folder.mkdir(exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(gzip.compress(data))
    return checksums(folder)


def checksums(folder):
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(folder.iterdir())}
