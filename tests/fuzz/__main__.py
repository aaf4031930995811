"""Fuzz everything that comes from outside for so many minutes, and print what came of it.

    python -m tests.fuzz [--minutes 10] [--seed N] [--only NAME]... [--out runs/fuzz]
    python -m tests.fuzz --again runs/fuzz/vault-17

Exit code 1 if an internal error or a silent acceptance was found; failing inputs are kept below
`--out` and tried again with `--again`. Ctrl-C prints the table of what was done.
"""

from __future__ import annotations

import argparse
import logging
import secrets
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.fuzz.file_targets import AddressTarget, DataTarget, ProfileTarget, TaskTarget
from tests.fuzz.harness import Tally, Target, keep_in, run, table, try_case
from tests.fuzz.history_targets import HistoryTarget, QuestionTarget
from tests.fuzz.private_targets import (
    BackupTarget,
    DocumentTarget,
    ImportTarget,
    PassphraseTarget,
    VaultTarget,
)
from tests.fuzz.release_targets import PublisherTarget, ReleaseTarget, TrustTarget

TARGETS: dict[str, Callable[[Path], Target]] = {
    kind.name: kind
    for kind in (
        VaultTarget,
        PassphraseTarget,
        BackupTarget,
        DocumentTarget,
        ImportTarget,
        TrustTarget,
        PublisherTarget,
        ReleaseTarget,
        HistoryTarget,
        QuestionTarget,
        TaskTarget,
        ProfileTarget,
        DataTarget,
        AddressTarget,
    )
}


def main(arguments: list[str] | None = None) -> int:
    """Read the command line, run, print; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=None, help="default: a new one")
    parser.add_argument("--only", action="append", choices=sorted(TARGETS), help="one target")
    parser.add_argument("--out", type=Path, default=Path("runs/fuzz"))
    parser.add_argument("--again", type=Path, help="the folder of a kept input")
    options = parser.parse_args(arguments)
    quiet()
    with tempfile.TemporaryDirectory() as scratch:
        if options.again is not None:
            return again(options.again, Path(scratch))
        seed = secrets.randbelow(1 << 32) if options.seed is None else options.seed
        print(f"seed {seed}, {options.minutes:g} minutes", flush=True)
        tallies: dict[str, Tally] = {}
        interrupted = False
        try:
            run(
                make_targets(Path(scratch), options.only),
                seed=seed,
                seconds=options.minutes * 60,
                keep=keep_in(options.out),
                tallies=tallies,
            )
        except KeyboardInterrupt:
            interrupted = True
            print("interrupted")
    print("\n".join(table(tallies)))
    if any(tally.failed for tally in tallies.values()):
        print(f"failing inputs: {options.out}; again: python -m tests.fuzz --again FOLDER")
        return 1
    return 130 if interrupted else 0


def make_targets(folder: Path, names: Sequence[str] | None = None) -> list[Target]:
    """Targets with a working folder each."""
    made = []
    for name in names or TARGETS:
        place = folder / name
        place.mkdir(parents=True)
        made.append(TARGETS[name](place))
    return made


def again(folder: Path, scratch: Path) -> int:
    """Judge one kept input, with the traceback of what it meets."""
    name = folder.name.rpartition("-")[0]
    files = {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "why.txt"
    }
    (target,) = make_targets(scratch, [name])
    tally = Tally()
    cause = try_case(target, files, tally)
    print(cause or "no failure")
    if tally.internal:
        target.judge(files)
    return 1 if cause else 0


def quiet() -> None:
    """What libraries print about hostile input helps nobody."""
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)


if __name__ == "__main__":
    sys.exit(main())
