"""Everything one person owns on a device, as one value and as bytes for a store.

The embedding is shared by all tasks; a task adds its history and its adapter. All of it stands in
one document, so that A, B, e_u and the items they were trained from cannot diverge (docs/security.md 3).
A simulated person's document is the same, of one task under one arm. Bytes: magic, header length
(4 bytes, big endian), JSON, safetensors. `client.person.stores` says what lies around them; parsing
is strict all the same.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from io import BytesIO
from typing import IO, Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from proper_model.errors import ConfigError, NotAdaptedError, TrainingError, VaultError
from proper_model.kernels import mix_seed
from proper_model.settings import BaseWeights, ItemPrivacy, from_mapping, to_mapping
from proper_model.tasks import (
    MOST_RETRIEVED,
    Depth,
    HistoryItem,
    Task,
    load_task,
    short_id,
    task_from_toml,
)

MAGIC = b"PROPERP1"
EMBEDDING = "embedding"
MAX_HEADER_BYTES = 1 << 30

STRICT = ConfigDict(strict=True, extra="forbid", frozen=True, revalidate_instances="always")

Report = Mapping[str, float | int | str]


@dataclass(frozen=True)
class TaskState:
    """One task of a person.

    Attributes:
        items: the whole history, oldest first.
        adapter: `lora.<site>.A|B` [r, d_in] / [d_out, r]; empty where there were too few items.
        report: numbers about the training; no text.
        adapted_at: UTC, ISO 8601.
        waiting: ids of items that no update could use yet; all others the adapter was trained on.
        retrieve: how many own items stand before a question, in training and afterwards.
    """

    toml: str
    template: str
    items: tuple[HistoryItem, ...]
    adapter: Mapping[str, Tensor]
    report: Report
    adapted_at: str
    waiting: tuple[str, ...] = ()
    retrieve: Depth = 0

    def task(self) -> Task:
        """The task itself. Raises TaskError if this version cannot read it."""
        task = task_from_toml(self.toml, template=self.template, where="the vault's task")
        return replace(task, retrieve=self.retrieve)


@dataclass(frozen=True)
class Event:
    """One line of what happened when: counts only."""

    __pydantic_config__ = STRICT

    at: str
    what: Literal["adapt", "update", "forget", "rebase", "import"]
    task: str
    items: int
    bundle_id: str


@dataclass(frozen=True)
class PersonalState:
    """What one person owns.

    Attributes:
        bundle_version: 0 for a simulated person, who stays with one release.
        seed: this person's own, drawn once; a simulated person's follows from the run's. Trainings
            on a device draw from `training_seed`.
        embedding: [tables, e].
        base_weights: how the base was held when the adapters were trained; None: as the release
            says.
        privacy: how single items are protected, in all trainings; None: not at all.
    """

    bundle_id: str
    bundle_version: int
    seed: int
    embedding: Tensor | None = None
    embedding_report: Report = field(default_factory=dict)
    tasks: Mapping[str, TaskState] = field(default_factory=dict)
    events: tuple[Event, ...] = ()
    base_weights: BaseWeights | None = None
    privacy: ItemPrivacy | None = None

    @property
    def training_seed(self) -> int:
        """What trainings over this release draw from: over another release another one.

        A short training leaves A near where it began, so that one start for all releases would link
        the adapters of two (docs/privacy.md, Linkage).
        """
        return mix_seed(self.seed, *self.bundle_id.encode())

    def task_named(self, name: str | None) -> tuple[str, TaskState]:
        """The task of that name or TOML file, or the only one.

        Raises NotAdaptedError if there is none, TaskError for a file that is no task.
        """
        if name is not None and name not in self.tasks and name.endswith(".toml"):
            name = load_task(name).name
        if name is None and len(self.tasks) == 1:
            return next(iter(self.tasks.items()))
        if name is None and self.tasks:
            raise NotAdaptedError(
                f"there are {len(self.tasks)} tasks here; which one is meant?",
                hint="add --task with one of: " + ", ".join(sorted(self.tasks)),
            )
        if name is None or name not in self.tasks:
            raise NotAdaptedError(
                "nothing was adapted here yet"
                if not self.tasks
                else f"no task {short_id(name or '')} was adapted here",
                hint="start with: proper adapt HISTORY --task TASK",
            )
        return name, self.tasks[name]

    def private(self, name: str) -> dict[str, Tensor]:
        """What a model reads under a task: `embedding` and `lora.<site>.A|B`, as far as there are."""
        tensors = {} if self.embedding is None else {EMBEDDING: self.embedding}
        return tensors | dict(self.tasks[name].adapter) if name in self.tasks else tensors

    def trained_items(self, name: str) -> int:
        """How many items a task's adapter was trained on, also where the items lie elsewhere."""
        return int(self.tasks[name].report.get("items", 0)) if name in self.tasks else 0

    def without_items(self) -> PersonalState:
        """The same without histories, for a store beside which they lie already."""
        tasks = {name: replace(task, items=(), waiting=()) for name, task in self.tasks.items()}
        return replace(self, tasks=tasks)

    def with_task(self, name: str, state: TaskState) -> PersonalState:
        """The same person with one task replaced or added."""
        return replace(self, tasks={**self.tasks, name: state})

    def noted(self, what: str, task: str, items: int) -> PersonalState:
        """The same person with one more line of history."""
        event = Event(utc_now(), what, task, items, self.bundle_id)  # type: ignore[arg-type]
        return replace(self, events=(*self.events, event))


def utc_now() -> str:
    """The present second, ISO 8601."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class _Strict(BaseModel):
    model_config = STRICT


class _Item(_Strict):
    id: str
    fields: dict[str, str]
    date: str | None = None


class _Task(_Strict):
    toml: str
    template: str
    items: list[_Item]
    report: dict[str, float | int | str]
    adapted_at: str
    waiting: list[str] = []
    retrieve: Annotated[int, Field(ge=0, le=MOST_RETRIEVED)] | Literal["all"] = 0


class _Document(_Strict):
    format: int = Field(ge=1, le=1)
    bundle_id: str
    bundle_version: int
    seed: int
    embedding_report: dict[str, float | int | str]
    tasks: dict[str, _Task]
    events: list[Event]
    base_weights: Literal["full", "8bit", "4bit"] | None = None
    privacy: dict[str, float | int | str] | None = None


def encode(state: PersonalState) -> bytes:
    """The document's bytes.

    Raises:
        TrainingError: a tensor or a number of a report is not finite.
        VaultError: there is more than `decode` reads.
    """
    tensors: dict[str, Tensor] = {}
    if state.embedding is not None:
        tensors[EMBEDDING] = state.embedding
    for name, task in state.tasks.items():
        tensors |= {f"{name}/{key}": tensor for key, tensor in task.adapter.items()}
    reports = (state.embedding_report, *(task.report for task in state.tasks.values()))
    numbers = [n for report in reports for n in report.values() if isinstance(n, float)]
    if not all(map(math.isfinite, numbers)):
        raise _not_finite("numbers of a report")
    if not all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values()):
        raise _not_finite("values")
    document = _Document(
        format=1,
        bundle_id=state.bundle_id,
        bundle_version=state.bundle_version,
        seed=state.seed,
        embedding_report=dict(state.embedding_report),
        tasks={
            name: _Task(
                toml=task.toml,
                template=task.template,
                items=[_Item(id=i.id, fields=dict(i.fields), date=i.date) for i in task.items],
                report=dict(task.report),
                adapted_at=task.adapted_at,
                waiting=list(task.waiting),
                retrieve=task.retrieve,
            )
            for name, task in state.tasks.items()
        },
        events=list(state.events),
        base_weights=None if state.base_weights is None else state.base_weights.value,
        privacy=None if state.privacy is None else to_mapping(state.privacy),
    )
    head = document.model_dump_json(exclude=_unsaid(state)).encode()
    if len(head) > MAX_HEADER_BYTES:
        raise VaultError(
            f"{len(head)} bytes of history; expected at most {MAX_HEADER_BYTES}; nothing was stored",
            hint="adapt with fewer items, the newest ones: proper adapt HISTORY --max-items COUNT",
        )
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    return MAGIC + struct.pack(">I", len(head)) + head + bytes(save(plain))


def _unsaid(state: PersonalState) -> dict[str, Any]:
    """Fields that hold nothing, left out so that a version that does not know them reads the rest."""
    without = {name: {"retrieve"} for name, task in state.tasks.items() if not task.retrieve}
    unset = {"base_weights": state.base_weights, "privacy": state.privacy}
    return {"tasks": without} | {name: True for name, value in unset.items() if value is None}


def decode(data: bytes) -> PersonalState:
    """The inverse of `encode`. Raises VaultError for a document this version cannot read."""
    stream = BytesIO(data)
    document = _read_document(stream)
    try:
        tensors = load(stream.read())
    except SafetensorError:
        raise _unreadable("its tensors cannot be read") from None
    return PersonalState(
        bundle_id=document.bundle_id,
        bundle_version=document.bundle_version,
        seed=document.seed,
        embedding=tensors.get(EMBEDDING),
        embedding_report=document.embedding_report,
        tasks={
            name: TaskState(
                toml=task.toml,
                template=task.template,
                items=tuple(HistoryItem(i.id, i.fields, i.date) for i in task.items),
                adapter={
                    key.removeprefix(f"{name}/"): tensor
                    for key, tensor in tensors.items()
                    if key.startswith(f"{name}/lora.")
                },
                report=task.report,
                adapted_at=task.adapted_at,
                waiting=tuple(task.waiting),
                retrieve=task.retrieve,
            )
            for name, task in document.tasks.items()
        },
        events=tuple(document.events),
        base_weights=None if document.base_weights is None else BaseWeights(document.base_weights),
        privacy=_promise(document.privacy),
    )


def read_report(stream: IO[bytes]) -> Report:
    """All numbers that a document's trainings left, embedding and tasks; tensors are not read.

    Raises VaultError as `decode`.
    """
    document = _read_document(stream)
    told = dict(document.embedding_report)
    for task in document.tasks.values():
        told |= task.report
    return told


def read_header(stream: IO[bytes], magic: bytes, limit: int) -> bytes | None:
    """What follows `magic` and its own length, 4 bytes; None for another magic or if it is cut off."""
    start = stream.read(len(magic) + 4)
    if len(start) < len(magic) + 4 or not start.startswith(magic):
        return None
    (length,) = struct.unpack(">I", start[len(magic) :])
    head = stream.read(length) if length <= limit else b""
    return head if len(head) == length else None


def _read_document(stream: IO[bytes]) -> _Document:
    """The JSON of a document; the stream stands at its tensors then."""
    head = read_header(stream, MAGIC, MAX_HEADER_BYTES)
    if head is None:
        raise _unreadable("it is no personal document, or cut off")
    try:
        return _Document.model_validate_json(head)
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors(include_input=False)[0]["loc"][:1])
        raise _unreadable(f"field '{where}' is not as this version writes it") from None


def _promise(values: dict[str, float | int | str] | None) -> ItemPrivacy | None:
    """Privacy of items as it was promised. Raises VaultError for one that could not have been."""
    if values is None:
        return None
    try:
        found = from_mapping(ItemPrivacy, values, where="privacy")
    except ConfigError as error:
        raise _unreadable(error.message) from None
    if found.noise_multiplier is None:
        raise _unreadable("its privacy has no noise")
    return found


def _not_finite(what: str) -> TrainingError:
    return TrainingError(
        f"training ended in {what} that are not finite; nothing was stored",
        hint="the state before is unchanged; report this with `proper doctor`'s output",
    )


def _unreadable(why: str) -> VaultError:
    return VaultError(
        f"the vault's content cannot be read: {why}",
        hint="update proper, or go back to the generation before with `proper rollback`",
    )
