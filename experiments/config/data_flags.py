"""Which flags a data set takes, and the data of a finished run in another folder."""

import dataclasses
from pathlib import Path

from experiments.catalog.datasets import DATASETS
from experiments.config.config import Config
from experiments.config.flag_names import flag_of
from experiments.terminal.errors import UsageError

__all__ = ["check_data_flags", "with_data_dir"]


def check_data_flags(config: Config) -> None:
    """Raises UsageError for a flag about data that the data set has no use for."""
    for name, value in config.source._asdict().items():
        if value not in (None, False) and name not in config.data.flags:
            taking = ", ".join(data for data, row in DATASETS.items() if name in row.flags)
            raise UsageError(f"{flag_of(name)}: {config.dataset} has no use for it; it is for {taking}")


def with_data_dir(config: Config, data_dir: Path | None) -> Config:
    """The configuration of a run whose data are in `data_dir` now, or where the run found them if it is None.

    Raises:
      UsageError: for the folder of a data set that is read from none.
    """
    if data_dir is None:
        return config
    moved = dataclasses.replace(config, data_dir=data_dir)
    check_data_flags(moved)
    return moved
