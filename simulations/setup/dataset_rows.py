"""Rows of a dataset: `hf:NAME[@REVISION][:SPLIT]` from the hub, a folder of its files, or of arrow.

Through the library `datasets`, which is imported here alone and late. The hub's files are streamed: no row
is kept on disk, neither in the hub's cache nor in that of `datasets`; a dataset's card and locks go to a
folder that is gone afterwards. Of formats only those are read that hold rows and no code.
"""

from __future__ import annotations

import logging
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from proper_model.errors import ConfigError, DataError
from proper_model.storage.files import expanded

PREFIX = "hf:"
EXTRA_HINT = "in the checkout: pip install '.[datasets]', or make install"
# A dataset of other formats may be pickled objects (webdataset), or no rows at all.
FORMATS = ("arrow", "csv", "json", "parquet")
SPLIT_FILE, SPLITS_FILE = "state.json", "dataset_dict.json"  # of `save_to_disk`
USUAL_SPLIT = "train"
_NAME = re.compile(
    r"hf:(?P<name>[^@:\s]+)(?:@(?P<revision>[^:\s]+))?(?::(?P<split>\w+(?:[.-]\w+)*))?"
)
_ON_HUB = re.compile(r"[\w.-]+/[\w.-]+(?:/[\w.-]+)?|[\w.-]+")


@dataclass(frozen=True)
class DatasetName:
    """Which rows are meant. `name` is of the hub, or the path of a folder; `part` its configuration.

    `split` None: the only one, or the one called `train`.
    """

    given: str
    name: str
    part: str | None = None
    revision: str | None = None
    split: str | None = None
    folder: Path | None = None

    @property
    def short(self) -> str:
        """What results call these people: of the hub with all that was asked for, since it decides the rows."""
        if self.folder is None:
            return self.given.removeprefix(PREFIX)
        split = "" if self.split is None else f":{self.split}"
        return f"{self.folder.resolve().name}{split}"


def is_dataset(data: str) -> bool:
    """Whether DATA is a dataset, by its prefix or by arrow's files in the folder."""
    return data.startswith(PREFIX) or _is_arrow(expanded(data))


def _is_arrow(folder: Path) -> bool:
    # `state.json` alone is too common a name.
    whole = (folder / SPLIT_FILE).is_file() and (folder / "dataset_info.json").is_file()
    return whole or (folder / SPLITS_FILE).is_file()


def parse_name(data: str) -> DatasetName:
    """`hf:NAME[@REVISION][:SPLIT]`, or an arrow folder. Raises ConfigError."""
    if not data.startswith(PREFIX):
        return DatasetName(data, data, folder=expanded(data))
    match = _NAME.fullmatch(data)
    if match is None:
        raise ConfigError(
            f"{data}: expected hf:NAME, hf:NAME@REVISION, hf:NAME:SPLIT or hf:NAME@REVISION:SPLIT",
            hint="for example hf:org/name:train",
        )
    name, revision, split = match["name"], match["revision"], match["split"]
    path = expanded(name)
    if name.startswith((".", "/", "~")) or path.exists():
        if revision is not None:
            raise ConfigError(
                f"{data}: a folder has no revisions", hint="leave @ and what follows it out"
            )
        if not path.is_dir():
            raise DataError(f"{data}: no such folder", hint="give the folder with the files")
        return DatasetName(data, name, split=split, folder=path)
    if not _ON_HUB.fullmatch(name):
        raise ConfigError(
            f"{data}: no name of the hub and no folder", hint="for example hf:org/name:train"
        )
    owner, _, rest = name.partition("/")
    dataset, _, part = rest.partition("/")
    whole = f"{owner}/{dataset}" if dataset else owner
    return DatasetName(data, whole, part or None, revision, split)


@dataclass(frozen=True)
class Rows:
    """One split of a dataset, opened. `where` names it in messages."""

    where: str
    columns: tuple[str, ...]
    opened: Any
    labels: Mapping[str, Sequence[str]]

    def read(self, columns: Sequence[str]) -> Iterator[Mapping[str, Any]]:
        """Rows in order with these columns alone; labels that are stored as numbers by their names.

        Raises DataError if they cannot be read to the end.
        """
        names = {column: self.labels[column] for column in columns if column in self.labels}
        with _told(self.where, "cannot be read to its end"):
            for row in self.opened.select_columns(list(columns)):
                for column, labels in names.items():
                    row[column] = _label(row.get(column), labels)
                yield row


def _label(value: Any, labels: Sequence[str]) -> Any:
    """A label's name; -1 is how `datasets` says that there is none."""
    if not isinstance(value, int):
        return value
    return labels[value] if 0 <= value < len(labels) else None


@contextmanager
def open_rows(name: DatasetName) -> Iterator[Rows]:
    """The rows of a split, for as long as the block lasts.

    Raises ConfigError without the library, DataError for a dataset, split or configuration that is not
    there or cannot be read; what went wrong is told by kind, never in words that may quote a row.
    """
    library = _library()
    with (
        tempfile.TemporaryDirectory(prefix="proper-datasets-") as folder,
        _quiet(library),
        _nothing_kept(Path(folder)),
    ):
        splits = _splits(library, name, Path(folder))
        split = _chosen(name, tuple(splits))
        where = f"{name.given.removesuffix(f':{name.split}')}, split {split}"
        with _told(where, "cannot be opened"):
            opened = splits[split]
            features = opened.features
            if features is None:  # nothing says so but the rows
                features = dict.fromkeys(next(iter(opened.take(1)), {}))
        labels = {
            column: tuple(feature.names)
            for column, feature in features.items()
            if isinstance(feature, library.ClassLabel)
        }
        yield Rows(where, tuple(features), opened, labels)


def _library() -> Any:
    try:
        import datasets
    except ImportError:
        raise ConfigError(
            "reading datasets needs the library `datasets`, the extra 'datasets' of PROPER, which is "
            "not installed",
            hint=EXTRA_HINT,
        ) from None
    return datasets


def _splits(library: Any, name: DatasetName, scratch: Path) -> Mapping[str, Any]:
    """Every split of a dataset, opened and not yet read."""
    folder = name.folder
    if folder is not None and _is_arrow(folder):
        with _told(name.given, "cannot be opened"):
            found = library.load_from_disk(str(folder), keep_in_memory=False)
        return found if isinstance(found, dict) else {name.split or USUAL_SPLIT: found}
    with _told(name.given, "cannot be opened"):
        try:
            builder = library.load_dataset_builder(
                name.name if folder is None else str(folder.resolve()),
                name.part,
                revision=name.revision,
                cache_dir=str(scratch),
                download_config=library.DownloadConfig(cache_dir=str(scratch)),
            )
        except ValueError as error:  # which configuration?
            unknown = _unknown_part(library, name, scratch)
            raise (error if unknown is None else unknown) from None
    if builder.name not in FORMATS:
        raise DataError(
            f"{name.given}: files of kind '{builder.name}', expected {', '.join(FORMATS)}",
            hint="save the rows in one of these formats",
        )
    with _told(name.given, "cannot be opened"):
        splits: Mapping[str, Any] = builder.as_streaming_dataset()
    return splits


def _unknown_part(library: Any, name: DatasetName, scratch: Path) -> DataError | None:
    """What is wrong with the configuration; None where it is something else."""
    parts = library.get_dataset_config_names(
        name.name if name.folder is None else str(name.folder.resolve()),
        revision=name.revision,
        download_config=library.DownloadConfig(cache_dir=str(scratch)),
    )
    if name.part in parts or (name.part is None and len(parts) < 2):
        return None
    said = f"no configuration '{name.part}'" if name.part else f"{len(parts)} configurations"
    return DataError(
        f"{name.given}: {said}, expected the name of one: {', '.join(parts[:20])}",
        hint=f"for example hf:{name.name}/{parts[0] if parts else 'CONFIGURATION'}",
    )


def _chosen(name: DatasetName, splits: Sequence[str]) -> str:
    wanted = name.split or (splits[0] if len(splits) == 1 else USUAL_SPLIT)
    if wanted not in splits:
        raise DataError(
            f"{name.given}: no split '{wanted}', expected one of {', '.join(splits)}",
            hint=f"for example {name.given.removesuffix(f':{name.split}')}:{splits[0]}"
            if splits
            else "the dataset has no files",
        )
    return wanted


@contextmanager
def _told(where: str, what: str) -> Iterator[None]:
    """A failure of `datasets` as a DataError with its kind: its own words may quote rows."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever it is may quote a row
        kind = type(error).__name__
        hints = {
            "DatasetNotFoundError": "check the name; for a private one log in: hf auth login",
            "OfflineModeIsEnabled": "HF_HUB_OFFLINE is set: unset it, or give a local folder",
            "ConnectionError": "check the connection, or give a local folder",
            "DataFilesNotFoundError": f"expected files of kind {', '.join(FORMATS)}",
        }
        causes = [hints[cls.__name__] for cls in type(error).__mro__ if cls.__name__ in hints]
        raise DataError(
            f"{where}: {what} ({kind})",
            hint=causes[0] if causes else "check that `datasets` reads it by itself",
        ) from None


@contextmanager
def _quiet(library: Any) -> Iterator[None]:
    """No bars, no counting of downloads, and no log lines, which may quote rows."""
    library.config.HF_UPDATE_DOWNLOAD_COUNTS = False
    log = logging.getLogger("datasets")
    before, bars = log.level, library.is_progress_bar_enabled()
    log.setLevel(logging.CRITICAL + 1)
    library.disable_progress_bars()
    try:
        yield
    finally:
        log.setLevel(before)
        if bars:
            library.enable_progress_bars()


@contextmanager
def _nothing_kept(scratch: Path) -> Iterator[None]:
    """Have the hub's client put what it keeps, a dataset's card, into `scratch` for this block."""
    from huggingface_hub import constants

    before = constants.HF_HUB_CACHE
    constants.HF_HUB_CACHE = str(scratch)
    try:
        yield
    finally:
        constants.HF_HUB_CACHE = before
