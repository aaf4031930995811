"""Starting Flower's process so that nothing of it outlives the run.

The command runs under `simulations.flower.supervisor`; the environment puts Flower's files where the run's
folder is, and switches every report home off.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from proper_model.federation.run_plan import PLAN_VARIABLE
from proper_model.storage.files import make_private_folder

SCRATCH = "tmp"  # below the folder of Flower's files


@contextmanager
def child(
    command: list[str], environment: dict[str, str], output: IO[bytes]
) -> Iterator[subprocess.Popen[bytes]]:
    """A supervised command; closing its pipe, also by our death, ends it and its descendants."""
    process = subprocess.Popen(
        [sys.executable, "-m", "simulations.flower.supervisor", *command],
        stdin=subprocess.PIPE,
        stdout=output,
        stderr=subprocess.STDOUT,
        env=environment,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        assert process.stdin is not None
        process.stdin.close()
        _wait(process)


def nothing_to_save(process: subprocess.Popen[bytes]) -> None:
    """Tell a supervisor to end its command without waiting, because all its work is on disk."""
    assert process.stdin is not None
    with suppress(OSError):  # it has ended by itself
        process.stdin.write(b"!")
        process.stdin.flush()


def _wait(process: subprocess.Popen[bytes]) -> None:
    """Wait for a child even while Ctrl-C is pressed again; the supervisor's wait is bounded."""
    while True:
        try:
            process.wait()
        except KeyboardInterrupt:
            continue
        return


def child_environment(folder: Path, plan_path: Path) -> dict[str, str]:
    """Ours, plus where Flower keeps its things, with every report home switched off."""
    package_root = Path(__file__).resolve().parents[2]
    search = os.environ.get("PYTHONPATH")
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(package_root), *([search] if search else [])]),
        # `python -m` would look into the working folder first, where others may write (/tmp).
        "PYTHONSAFEPATH": "1",
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "FLWR_HOME": str(make_private_folder(folder / "home")),
        # The user's own may be full, forbidden or gone, which would show after hours; OUT is needed
        # anyway, is private, and has room for a release.
        "TMPDIR": str(make_private_folder(folder / SCRATCH)),
        "PYTHONUNBUFFERED": "1",
        "NO_COLOR": "1",
        PLAN_VARIABLE: str(plan_path.resolve()),
    }
