"""What finished arms left: predictions and costs, each in one file that is there whole or not at all.

    CELL/arms/NAME.json        predictions of one arm, what they cost, the code that made them
    CELL/left-out/NAME.json    why an arm has no answers for these data
    CELL/states/NAME/00000     the people's private parts, without histories, in their order
    CELL/release.json          of the pooled stages: notes, sizes; phases.json: their seconds

All of it belongs to one configuration (`configuration`), so a file that is there need not be made
again, whenever the run before it was killed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from client.person.state import PersonalState, decode, encode
from proper_model.errors import CheckpointError, VaultError
from proper_model.evaluation import Prediction
from proper_model.storage.documents import DocumentError, parse_object
from proper_model.storage.durable import remove_folder
from proper_model.storage.files import make_private_folder, read_regular, write_atomic
from proper_model.tasks import User
from simulations.experiments.schema import Costs

MAX_BYTES = 1 << 32


@dataclass(frozen=True)
class Finished:
    """One arm. `training` None where it learned nothing of its own."""

    predictions: Sequence[Prediction]
    training: Costs | None
    answering: Costs
    commit: str


@dataclass(frozen=True)
class ReleaseFacts:
    """Of one release: what training noted, and how many numbers it trains or ships by part."""

    notes: Mapping[str, Any]
    parameters: Mapping[str, int]
    seconds: Mapping[str, float] = field(default_factory=dict)


class CellStore:
    """The folder of one cell."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def arm(self, name: str) -> Finished | None:
        """A finished arm, or None. Raises CheckpointError for a damaged file."""
        stored = _read(self._arm_file(name))
        if stored is None:
            return None
        try:
            return Finished(
                predictions=[_prediction(row) for row in stored["predictions"]],
                training=None if stored["training"] is None else Costs(**stored["training"]),
                answering=Costs(**stored["answering"]),
                commit=str(stored["commit"]),
            )
        except (KeyError, TypeError, ValueError):
            raise _damaged(self._arm_file(name)) from None

    def finish(self, name: str, done: Finished) -> None:
        """Store an arm and delete what its training left to go on from."""
        content = {
            "predictions": [asdict(row) for row in done.predictions],
            "training": None if done.training is None else done.training.model_dump(),
            "answering": done.answering.model_dump(),
            "commit": done.commit,
        }
        _write(self._arm_file(name), content)
        for leftover in (self.folder / "scratch").glob(f"{name}*"):
            remove_folder(leftover)

    def left_out(self, name: str) -> str | None:
        """Why an arm has no answers for these data, or None."""
        stored = _read(self.folder / "left-out" / f"{name}.json")
        return None if stored is None else str(stored.get("why"))

    def leave_out(self, name: str, why: str) -> None:
        """Store why an arm has no answers, so that it is not tried again."""
        _write(self.folder / "left-out" / f"{name}.json", {"why": why})

    def states(self, name: str, users: Sequence[User]) -> dict[str, PersonalState] | None:
        """All people's states by user id, or None if one is missing. Raises as `arm`."""
        paths = [self._state_file(name, place) for place in range(len(users))]
        if not all(path.is_file() for path in paths):
            return None
        return {user.user_id: _state(path) for user, path in zip(users, paths, strict=True)}

    def keep_states(
        self,
        name: str,
        users: Sequence[User],
        states: Mapping[str, PersonalState],
        costs: Costs,
    ) -> None:
        """Store every person's state without the history, which lies in the data already."""
        _write(self.folder / "states" / f"{name}.json", costs.model_dump())
        make_private_folder(self._state_file(name, 0).parent)
        for place, user in enumerate(users):
            document = encode(states[user.user_id].without_items())
            write_atomic(self._state_file(name, place), document)

    def training(self, name: str) -> Costs | None:
        """What making stored states took; of a training that went on, its last start."""
        path = self.folder / "states" / f"{name}.json"
        stored = _read(path)
        try:
            return None if stored is None else Costs(**stored)
        except (TypeError, ValueError):
            raise _damaged(path) from None

    def release(self) -> ReleaseFacts | None:
        """What is known of the cell's release, or None."""
        stored = _read(self.folder / "release.json")
        if stored is None:
            return None
        try:
            found = ReleaseFacts(**stored)
            if all(isinstance(part, dict) for part in stored.values()):
                return found
        except TypeError:
            pass
        raise _damaged(self.folder / "release.json")

    def keep_release(self, facts: ReleaseFacts) -> None:
        """Store what is known of the release."""
        _write(self.folder / "release.json", asdict(facts))

    def scratch(self, name: str) -> Path:
        """Path prefix, or folder, of what a training leaves to go on from."""
        return make_private_folder(self.folder / "scratch") / name

    def _arm_file(self, name: str) -> Path:
        return self.folder / "arms" / f"{name}.json"

    def _state_file(self, name: str, place: int) -> Path:
        return self.folder / "states" / name / f"{place:05d}"


def _read(path: Path) -> dict[str, Any] | None:
    try:
        return parse_object(read_regular(path, limit_bytes=MAX_BYTES), surrogates=True)
    except FileNotFoundError:
        return None
    except DocumentError:
        raise _damaged(path) from None


def _prediction(row: Mapping[str, Any]) -> Prediction:
    """Raises TypeError for another thing."""
    found = Prediction(**row)
    texts, numbers = (found.user_id, found.query_id, found.output), (found.nll, found.answer_tokens)
    if not all(isinstance(text, str) for text in texts):
        raise TypeError
    if not all(isinstance(n, int | float) for n in (*numbers, found.expected or 0)):
        raise TypeError
    return found


def _state(path: Path) -> PersonalState:
    try:
        return decode(read_regular(path, limit_bytes=MAX_BYTES))
    except VaultError:  # it speaks of a vault, and here is none
        raise _damaged(path) from None


def _write(path: Path, content: Mapping[str, Any]) -> None:
    make_private_folder(path.parent)
    write_atomic(path, json.dumps(content, ensure_ascii=True, allow_nan=False).encode())


def _damaged(path: Path) -> CheckpointError:
    return CheckpointError(
        f"{path}: not what a finished part of a benchmark looks like",
        hint="delete that file; what it held is computed again",
    )
