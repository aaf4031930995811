"""What runs left of people on the coordinator: cached phases, and the texts that were pooled."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from coordinator.consents import Consents
from coordinator.phase_people import phases_of, remove_phase
from proper_model.errors import BusyError

TEXTS = ("pooled.json", "personalized.json")  # below a run's `server` folder


@dataclass(frozen=True)
class Remains:
    """Phases made of people's data, files with their texts, and phases that do not say whose they are."""

    phases: tuple[Path, ...]
    texts: tuple[Path, ...]
    silent: tuple[Path, ...]


def remains_of(consents: Consents, people: Collection[str], caches: Sequence[Path]) -> Remains:
    """What lies in the folders of recorded trainings, and in further caches, of any of these people."""
    trained = consents.trained_with(people)
    phases: list[Path] = []
    silent: list[Path] = []
    folders = [*(Path(one.cache) for one in consents.trainings), *(c.resolve() for c in caches)]
    for folder in dict.fromkeys(folders):
        found, unknown = phases_of(folder, people)
        phases += found
        silent += unknown
    files = [Path(one.run) / "server" / name for one in trained for name in TEXTS]
    texts = [path for path in dict.fromkeys(files) if path.is_file()]
    return Remains(tuple(phases), tuple(texts), tuple(silent))


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
