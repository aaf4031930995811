"""What runs left of people on the coordinator: cached phases, and the texts that were pooled."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from coordinator.consents import Consents
from coordinator.phase_people import phases_of, remove_phase
from proper_model.errors import BusyError, ConfigError

TEXTS = ("pooled.json", "personalized.json")  # below a run's `server` folder


@dataclass(frozen=True)
class Remains:
    """Phases made of people's data, files with their texts, and what cannot be judged.

    `silent` phases do not say whose they are; `missing` are recorded folders that are not there.
    """

    phases: tuple[Path, ...]
    texts: tuple[Path, ...]
    silent: tuple[Path, ...]
    missing: tuple[Path, ...]


@dataclass(frozen=True)
class Moved:
    """A folder that lay at `old` when a training was recorded, it or one above it, and lies at `new` now."""

    old: Path
    new: Path

    def holds(self, recorded: Path) -> bool:
        """Whether a recorded folder went along."""
        return recorded.is_relative_to(self.old)


def check_moved(consents: Consents, moved: Sequence[Moved]) -> None:
    """Raise ConfigError for one that no recorded folder went along with: it would be looked at in vain."""
    recorded = [Path(place) for one in consents.trainings for place in (one.run, one.cache)]
    for one in moved:
        if not any(map(one.holds, recorded)):
            raise ConfigError(
                f"--moved: no recorded folder is {one.old} or lies below it",
                hint="nothing was changed; give the old place as `not found` names it",
            )


def remains_of(
    consents: Consents, people: Collection[str], caches: Sequence[Path], moved: Sequence[Moved] = ()
) -> Remains:
    """What lies in the folders of recorded trainings, and in further caches, of any of these people."""
    trained = consents.trained_with(people)
    runs = list(dict.fromkeys(_now_at(Path(one.run), moved) for one in trained))
    recorded = [_now_at(Path(one.cache), moved) for one in consents.trainings]
    phases: list[Path] = []
    silent: list[Path] = []
    for folder in dict.fromkeys([*recorded, *(cache.resolve() for cache in caches)]):
        found, unknown = phases_of(folder, people)
        phases += found
        silent += unknown
    texts = [path for run in runs for name in TEXTS if (path := run / "server" / name).is_file()]
    asked = dict.fromkeys([*runs, *recorded]) if people else ()
    missing = [folder for folder in asked if not folder.is_dir()]
    return Remains(tuple(phases), tuple(texts), tuple(silent), tuple(missing))


def _now_at(recorded: Path, moved: Sequence[Moved]) -> Path:
    along = [one for one in moved if one.holds(recorded)]
    if not along:
        return recorded
    nearest = max(along, key=lambda one: len(one.old.parts))
    return nearest.new / recorded.relative_to(nearest.old)


def erase_remains(remains: Remains) -> Iterator[Path]:
    """Delete phases and texts, telling each when it is gone. Raises BusyError for one that trains now."""
    for folder in remains.phases:
        try:
            remove_phase(folder)
        except TimeoutError:
            raise BusyError(
                f"{folder}: a run trains this phase now; what was deleted before stays deleted",
                hint="stop that run, then repeat the command",
            ) from None
        yield folder
    for path in remains.texts:
        path.unlink(missing_ok=True)
        yield path
