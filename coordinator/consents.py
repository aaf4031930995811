"""Who agreed to pool their data: recorded, withdrawn, and which releases were trained with whom.

The operator keeps one file, JSON, 0600, replaced whole. It names people by the ids that they have in the
data, because a release is trained with those and without the others. A withdrawal stays in it, since it
has to be shown, and so does who was in which release, since that is what a withdrawal is answered
with. No release says an id: it holds the numbers of `Consents.counts` (docs/releases.md).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from proper_model.bundle.signed_time import Time
from proper_model.errors import ConfigError, StorageError
from proper_model.federation.run_plan import NAME_OF_RELEASE
from proper_model.storage.documents import DocumentError, parse_object
from proper_model.storage.durable import locked
from proper_model.storage.files import (
    make_private_folder,
    read_bounded,
    read_private,
    save_private,
    storage_errors,
)

MAX_BYTES = 256 << 20
LOCK_TIMEOUT_S = 60.0
UserId = Annotated[str, Field(min_length=1, max_length=1000, pattern=r"^[^\r\n]+$")]
Name = Annotated[str, Field(pattern=NAME_OF_RELEASE)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Consent(_Entry):
    """One person's consent: given when, for which releases by name (none: for every one), until when."""

    user_id: UserId
    given: Time
    releases: list[Name] = []
    withdrawn: Time | None = None

    def covers(self, release: str | None) -> bool:
        """Whether it stands, and holds for a release of that name (None: one without a name)."""
        return self.withdrawn is None and (not self.releases or release in self.releases)

    @model_validator(mode="after")
    def _in_order(self) -> Consent:
        if self.withdrawn is not None and self.withdrawn < self.given:  # one form, so text sorts
            raise ValueError("withdrawn before it was given")
        return self


class Training(_Entry):
    """A release that was signed: `content` is of its files (`content_of`), `people` whose data it has.

    `run` and `cache` are the folders that were left on the coordinator.
    """

    content: Sha256
    signed: Time
    release: Name | None
    people: list[UserId]
    run: str
    cache: str


class Consents(_Entry):
    """The whole file. Its methods change nothing: they return what is to be stored."""

    format: int = Field(default=1, ge=1, le=1)
    consents: list[Consent] = []
    trainings: list[Training] = []

    def standing(self, release: str | None) -> set[str]:
        """Who may train a release of that name."""
        return {one.user_id for one in self.consents if one.covers(release)}

    def withdrawn(self) -> set[str]:
        """Who had agreed and now agrees to nothing."""
        stand = {one.user_id for one in self.consents if one.withdrawn is None}
        return {one.user_id for one in self.consents} - stand

    def withdrew(self) -> dict[str, str]:
        """When those people did: the newest time of each."""
        gone, newest = self.withdrawn(), dict[str, str]()
        for one in self.consents:
            if one.withdrawn is not None and one.user_id in gone:
                newest[one.user_id] = max(one.withdrawn, newest.get(one.user_id, ""))
        return newest

    def recorded(self, people: Sequence[str], releases: Sequence[str], at: str) -> Consents:
        """With a consent of each; who has the same one already keeps it.

        Raises ConfigError, naming no one, for an id or a name of a release that is none.
        """
        wanted = sorted(set(releases))
        kept = {
            one.user_id for one in self.consents if one.withdrawn is None and one.releases == wanted
        }
        new = []
        for place, who in enumerate(dict.fromkeys(people), start=1):
            if who != who.strip():  # another person than the data have, with a consent of no use
                raise ConfigError(
                    f"person {place} of those given: the id begins or ends with a blank; expected it as the "
                    "data have it",
                    hint="nothing was changed; take the blank away, in the data too if it is there",
                )
            if who in kept:
                continue
            try:
                new.append(Consent(user_id=who, given=at, releases=wanted))
            except ValidationError as error:
                of_name = error.errors(include_url=False)[0]["loc"][0] == "releases"
                raise ConfigError(
                    "a name of a release: 1 to 64 letters, digits, '.', '_' or '-' are expected"
                    if of_name
                    else f"person {place} of those given: an id of 1 to 1000 characters is expected",
                    hint="nothing was changed",
                ) from None
        return self.model_copy(update={"consents": [*self.consents, *new]})

    def wider(self, people: Collection[str], releases: Sequence[str]) -> set[str]:
        """Who of these people has a standing consent for all these releases and more."""
        asked, wanted = set(people), set(releases)
        return {
            one.user_id
            for one in self.consents
            if one.user_id in asked and one.withdrawn is None
            if wanted and (not one.releases or wanted < set(one.releases))
        }

    def without(self, people: Sequence[str], at: str) -> Consents:
        """With all consents of these people withdrawn. Raises ConfigError for one who has none."""
        known = {one.user_id for one in self.consents}
        for place, who in enumerate(people, start=1):
            if who not in known:
                raise ConfigError(
                    f"person {place} of those given: no consent is recorded; nothing was changed",
                    hint="proper-coordinator consent list shows whose are",
                )
        gone = set(people)
        changed = [
            one.model_copy(update={"withdrawn": at})
            if one.user_id in gone and one.withdrawn is None
            else one
            for one in self.consents
        ]
        return self.model_copy(update={"consents": changed})

    def with_training(self, training: Training) -> Consents:
        """With a release that was signed, once."""
        others = [one for one in self.trainings if one.content != training.content]
        return self.model_copy(update={"trainings": [*others, training]})

    def trained_with(self, people: Collection[str]) -> list[Training]:
        """Releases that hold data of any of these people, oldest first."""
        return [one for one in self.trainings if not set(people).isdisjoint(one.people)]

    def counts(self, people: Collection[str], *, left_out: int, run: Path) -> dict[str, Any]:
        """What a release says: numbers, no ids.

        Who withdrew since the previous release was in that one, which is not of the same `run`.
        """
        before = [one for one in self.trainings if one.run != str(run)]
        previous = set(before[-1].people) if before else set()
        return {
            "recorded": True,
            "people": len(people),
            "left_out": left_out,
            "withdrawn_since_previous": len(previous & self.withdrawn()),
        }

    def check_standing(self, people: Collection[str], release: str | None, what: str) -> None:
        """Raise ConfigError if one of these people does not agree, or not any more."""
        without = len(set(people) - self.standing(release))
        if without:
            raise ConfigError(
                f"{what}: {without} of {len(set(people))} people have no standing consent for it",
                hint="train it again without them: proper-sim run ... --consents FILE into a new OUT",
            )


NOT_RECORDED: Mapping[str, Any] = {"recorded": False}
"""What a release says that was trained without a file of consents."""
NOTE = "consents"  # its name among the recipe's notes, which every reader takes whatever is in them


def says_recorded(notes: Mapping[str, Any]) -> bool:
    """Whether a release's notes say that it was trained by recorded consents."""
    said = notes.get(NOTE)
    return isinstance(said, dict) and said.get("recorded") is True


def content_of(hashes: Mapping[str, str]) -> str:
    """sha256 over the names and hashes of a release's files: the same under whatever version and key."""
    return hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()


def read_consents(path: Path) -> Consents:
    """Read the file. Raises ConfigError naming field and place, quoting nothing of it; StorageError."""
    try:
        data = read_private(path, limit_bytes=MAX_BYTES)
    except StorageError:
        # Another file that is open to others is told to be another, not to be closed.
        with suppress(OSError):
            _parsed(path, read_bounded(path, MAX_BYTES))
        raise
    return _parsed(path, data)


def _parsed(path: Path, data: bytes) -> Consents:
    if len(data) > MAX_BYTES:
        raise _refused(path, f"more than {MAX_BYTES} bytes")
    try:
        return Consents.model_validate(parse_object(data))
    except DocumentError as error:
        raise _refused(path, str(error)) from None
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        # Of a key nobody knows the name is somebody's text.
        place = [str(part) for part in first["loc"]]
        if first["type"] == "extra_forbidden":
            place[-1] = "an unknown field"
        raise _refused(path, f"{'.'.join(place) or 'file'}: {first['msg']}") from None


@contextmanager
def changing(path: Path, *, existing: bool = False) -> Iterator[_Change]:
    """The file as it is, or an empty one; what is put into `after` is stored whole at the end.

    One process at a time changes it. Raises as `read_consents`, StorageError, also for no file if it has to
    be an `existing` one, and ConfigError if another process has it.
    """
    lock = path.absolute().with_name(f".{path.name}.lock")
    if existing:  # asked before the lock, which would be left beside nothing
        with storage_errors(path):
            path.lstat()
    try:
        with storage_errors(path), _alone(lock):
            before = read_consents(path) if path.exists() or path.is_symlink() else Consents()
            change = _Change(before)
            yield change
            if change.after != before or not path.exists():
                save_private(path, _content(change.after))
    except TimeoutError:
        raise ConfigError(
            f"{path.name}: another process has been changing it for {LOCK_TIMEOUT_S:g} s",
            hint="wait for it to finish, then call again",
        ) from None


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    make_private_folder(lock.parent)
    with locked(lock, timeout_s=LOCK_TIMEOUT_S):
        yield


class _Change:
    def __init__(self, before: Consents) -> None:
        self.after = before


def _content(consents: Consents) -> bytes:
    return (json.dumps(consents.model_dump(), ensure_ascii=False, indent=1) + "\n").encode()


def _refused(path: Path, why: str) -> ConfigError:
    return ConfigError(
        f"{path.name}: {why}; expected a file of consents of format 1",
        hint="take the copy that the operator kept, or begin one: proper-coordinator consent record",
    )
