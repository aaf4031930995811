"""A run that was scanned: its folder, its canaries, the places meant for them; and how children are run in it.

Children run with home, caches, temporary folder, working folder and output below one folder, in which
nothing else lies, so that all that they leave is seen.
"""

from __future__ import annotations

import fnmatch
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from proper_model.storage.files import make_private_folder
from simulations.privacy.egress import witness
from simulations.privacy.egress.canaries import Canary
from simulations.privacy.egress.scanner import Finding

OUTPUTS = "outputs"
# Below the scanned folder, so that what libraries leave there is seen.
ELSEWHERE = {
    "HOME": "home",
    "TMPDIR": "tmp",
    "XDG_CACHE_HOME": "xdg/cache",
    "XDG_CONFIG_HOME": "xdg/config",
    "XDG_DATA_HOME": "xdg/data",
    "XDG_STATE_HOME": "xdg/state",
    "XDG_RUNTIME_DIR": "xdg/run",
    "HF_HOME": "huggingface",
    "TORCH_HOME": "torch",
    "FLWR_HOME": "flower",
}
DROPPED = ("HF_", "XDG_", "PROPER_", "TRANSFORMERS_", "FLWR_HOME")


@dataclass(frozen=True)
class Allowed:
    """Where canaries are meant to stand, and why: `place` is a pattern of fnmatch, `owner` whose.

    A place is a path below the scanned folder, with canaries as a report shows them. What a process
    removed counts as where it was.

    Attributes:
        names: patterns too, of the canaries; forms: a pattern of the forms they are found in.
        surely: one must stand there, or the run did not do what was to be scanned.
    """

    place: str
    owner: str
    reason: str
    names: tuple[str, ...] = ("*",)
    forms: str = "*"
    surely: bool = False

    def covers(self, found: Finding) -> bool:
        """Whether a canary may be found there."""
        place, parts = found.place, Path(found.place).parts
        if parts[:1] == (witness.REMOVED,):
            place = str(Path(*parts[2:]))
        return (
            fnmatch.fnmatchcase(place, self.place)
            and fnmatch.fnmatchcase(found.owner, self.owner)
            and fnmatch.fnmatchcase(found.form, self.forms)
            and any(fnmatch.fnmatchcase(found.canary, pattern) for pattern in self.names)
        )


@dataclass(frozen=True)
class ScannedRun:
    """A run that has ended.

    Attributes:
        root: the folder to scan; notes: where the witness wrote.
        inside: what lies on no disk in clear but must hold canaries, as a control; by a name.
        told: what it did, in words and numbers, for the result file.
    """

    name: str
    root: Path
    notes: Path
    canaries: tuple[Canary, ...]
    allowed: tuple[Allowed, ...]
    told: Mapping[str, int]
    inside: Mapping[str, bytes] = field(default_factory=dict)


def run_witnessed(
    command: Sequence[str],
    root: Path,
    notes: Path,
    name: str,
    more: Mapping[str, str] | None = None,
) -> int:
    """Run a child to its end, witnessed, with everything that it may leave below `root`.

    Args:
        name: of its outputs; more: of its environment.
    """
    environment = witness.attach({**apart(root), **(more or {})}, scanned=root, notes=notes)
    return run_child(command, root, name, environment)


def apart(root: Path) -> dict[str, str]:
    """An environment of a child whose home, caches and temporary folder lie below `root`."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(DROPPED)}
    places = {variable: str(make_private_folder(root / at)) for variable, at in ELSEWHERE.items()}
    package = str(Path(__file__).resolve().parents[3])
    kept["PYTHONPATH"] = os.pathsep.join(filter(None, [package, kept.get("PYTHONPATH")]))
    return {**kept, **places, "HF_HUB_OFFLINE": "1", "PYTHONSAFEPATH": "1"}


def run_child(command: Sequence[str], root: Path, name: str, environment: Mapping[str, str]) -> int:
    """Run a child to its end; what it says goes below `root`, and its exit code comes back."""
    outputs = make_private_folder(root / OUTPUTS)
    with (
        (outputs / f"{name}.stdout").open("wb") as out,
        (outputs / f"{name}.stderr").open("wb") as errors,
    ):
        done = subprocess.run(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=errors,
            env=environment,
            cwd=make_private_folder(root / "work"),
            check=False,
        )
    return done.returncode
