"""Starting Flower's processes so that none of them outlives the run.

Each command runs under `simulations.supervisor`; the environment puts Flower's and Ray's files
where the run's folder or a temporary one is, and switches every report home off.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from proper_model.errors import SimulationError
from proper_model.files import make_private_folder
from proper_model.runplan import PLAN_VARIABLE

START_TIMEOUT_S = 60.0
POLL_S = 0.2


@contextmanager
def superlink(
    port: int, environment: dict[str, str], output: IO[bytes], *, scratch: str
) -> Iterator[subprocess.Popen[bytes]]:
    """A SuperLink under supervision: it and all it starts end with this block, or with us."""
    command = [
        *("flower-superlink", "--insecure", "--simulation", "--isolation", "subprocess"),
        *("--host", "127.0.0.1", "--port", str(port), "--disable-runtime-dependency-installation"),
    ]
    with child(command, environment, output, scratch=scratch) as process:
        deadline = time.monotonic() + START_TIMEOUT_S
        while not _healthy(port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise SimulationError(
                    "Flower's SuperLink did not start",
                    hint="read OUT/flower/flower.log; are `flwr` and `ray` installed?",
                )
            time.sleep(POLL_S)
        yield process


@contextmanager
def child(
    command: list[str], environment: dict[str, str], output: IO[bytes], *, scratch: str = ""
) -> Iterator[subprocess.Popen[bytes]]:
    """A supervised command; closing its pipe, also by our death, ends it and its descendants.

    `scratch` is a folder to remove when they have ended.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "simulations.supervisor", scratch, *command],
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


def _healthy(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1) as reply:
            return bool(reply.status == 200)
    except OSError:
        return False


def free_port() -> int:
    """A port on the loopback interface that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def child_environment(folder: Path, scratch: str, plan_path: Path) -> dict[str, str]:
    """Ours, plus where Flower and Ray keep their things, with every report home switched off."""
    package_root = Path(__file__).resolve().parent.parent
    search = os.environ.get("PYTHONPATH")
    return {
        **os.environ,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
        "PYTHONPATH": os.pathsep.join([str(package_root), *([search] if search else [])]),
        "FLWR_HOME": str(make_private_folder(folder / "home")),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "RAY_TMPDIR": scratch,
        "RAY_USAGE_STATS_ENABLED": "0",
        # Ray would start a worker a core before anybody asks. Flower's actors have an environment
        # of their own and cannot use them, so they would only take the cores from the start.
        "RAY_enable_worker_prestart": "0",
        "RAY_prestart_worker_first_driver": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONUNBUFFERED": "1",
        "NO_COLOR": "1",
        PLAN_VARIABLE: str(plan_path.resolve()),
    }
