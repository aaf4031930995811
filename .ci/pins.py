"""The pinned set: constraints.txt, what a CUDA build of torch needs besides, and the extras apart.

The extras of APART are installed in environments of their own, so their pins stand apart.

One requirement a line, `NAME==VERSION`, followed by the SHA-256 of every file that may be installed
for it. All are requirement files of pip's; nothing else may stand in them.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
PINNED = ROOT / "constraints.txt"
PINNED_CUDA = ROOT / "constraints-cuda.txt"
APART = {  # extra: its pins
    "privacy": ROOT / "constraints-privacy.txt",
    "front-end": ROOT / "constraints-front-end.txt",
}
_PIN = re.compile(
    r"^(?P<name>[A-Za-z0-9._-]+)==(?P<version>[A-Za-z0-9.]+)(?P<hashes>(?: \\\n    --hash=sha256:[0-9a-f]{64})+)\n",
    re.MULTILINE,
)
_HASH = re.compile(r"sha256:([0-9a-f]{64})")


@dataclass(frozen=True)
class Pin:
    """One distribution. `hashes` are the files that may be installed, as 64 hex digits."""

    name: str
    version: Version
    hashes: tuple[str, ...]

    def __str__(self) -> str:
        lines = [f"{self.name}=={self.version}", *(f"    --hash=sha256:{h}" for h in self.hashes)]
        return " \\\n".join(lines) + "\n"


def read_pins(path: Path) -> dict[str, Pin]:
    """Pins by canonical name.

    Raises ValueError for a pin without a hash, a name that comes twice, or anything else in there.
    """
    text = path.read_text()
    rest = re.sub(r"^#.*\n", "", _PIN.sub("", text), flags=re.MULTILINE)
    if rest:
        raise ValueError(f"{path.name}: no pin with hashes: {rest.splitlines()[0]}")
    pins: dict[str, Pin] = {}
    for match in _PIN.finditer(text):
        name = canonicalize_name(match["name"])
        if name in pins:
            raise ValueError(f"{path.name}: {name} comes twice")
        hashes = tuple(_HASH.findall(match["hashes"]))
        pins[name] = Pin(match["name"], Version(match["version"]), hashes)
    return pins


def declared(root: Path = ROOT, *, apart: str | None = None) -> list[Requirement]:
    """What pyproject.toml asks for: to build, to run, and in every extra but our own.

    `apart`: of an extra that has an environment of its own, which is in no other answer.
    """
    content = tomllib.loads((root / "pyproject.toml").read_text())
    project = content["project"]
    extras = project["optional-dependencies"]
    if apart is not None:
        return [Requirement(line) for line in extras[apart]]
    lines = [
        *content["build-system"]["requires"],
        *project["dependencies"],
        *(line for name, extra in extras.items() if name not in APART for line in extra),
    ]
    requirements = [Requirement(line) for line in lines]
    return [requirement for requirement in requirements if requirement.name != project["name"]]
