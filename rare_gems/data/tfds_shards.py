"""The files of a folder prepared for TFDS: whether all of them are there and whole."""

import os
from pathlib import Path
from typing import Any, NamedTuple

from rare_gems.data.decode import one_line

__all__ = ["Shard", "check_described", "check_shard", "num_records", "shards"]


class Shard(NamedTuple):
    """file: its path. num: records that dataset_info.json says are in it."""

    file: str
    num: int


def check_described(folder: Path) -> None:
    """Checks that the files are there which say what a prepared folder holds.

    Raises:
      ValueError: one is missing.
    """
    for name in ("dataset_info.json", "features.json"):
        if not (folder / name).is_file():
            raise ValueError(f"missing file {folder / name}; copy the folder again, whole")


def shards(builder: Any, split: str) -> list[Shard]:
    """The record files of a split, of a TFDS builder, checked.

    Raises:
      ValueError: the split has no examples; a file is missing, cannot be read, is empty or damaged, or has another
        number of records.
    """
    if (num := builder.info.splits[split].num_examples) < 1:
        raise ValueError(f"expected one or more examples in split {split} of {builder.data_path}, got {num}")
    found = [Shard(str(part.filename), part.take) for part in builder.info.splits[split].file_instructions]
    missing = [shard.file for shard in found if not os.path.lexists(shard.file)]
    if missing:
        which = f"{len(missing)} of the {len(found)} files of split {split} are not there"
        raise ValueError(f"missing record file {missing[0]} ({which}); copy the folder again, whole")
    for shard in found:
        check_shard(shard)
    return found


def check_shard(shard: Shard) -> None:
    """Checks that a record file has as many records as dataset_info.json says; each record has a checksum of its own.

    Raises:
      ValueError: it is missing, cannot be read, is empty or damaged, or has another number of records.
    """
    file, num = shard
    if (got := num_records(file)) != num:
        wrong = f"another number of records in {file}: expected {num}, as dataset_info.json says, got {got}"
        raise ValueError(f"{wrong}; copy the folder again, whole, or prepare it anew")


def num_records(file: str) -> int:
    """The number of records in an array_record file, which its end tells.

    Raises:
      ValueError: it is missing, cannot be read, is empty or damaged.
    """
    from array_record.python.array_record_module import ArrayRecordReader

    try:
        with Path(file).open("rb") as opened:
            size = opened.seek(0, os.SEEK_END)
    except FileNotFoundError as error:
        raise ValueError(f"missing record file {file}; copy the folder again, whole") from error
    except OSError as error:
        raise ValueError(f"record file {file} cannot be read ({error.strerror}); make it readable") from error
    if size == 0:
        raise ValueError(f"empty record file {file}; expected records: copy it again")
    reader = ArrayRecordReader(file, "readahead_buffer_size:0")
    got, why = reader.num_records(), ""
    try:
        reader.close()
    except RuntimeError as error:
        why = f" ({one_line(error)})"
    if not got:  # as the reader answers where it cannot find the end
        raise ValueError(f"damaged record file {file}: cut short, or no array_record file{why}; copy it again")
    return got
