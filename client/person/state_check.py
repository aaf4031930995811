"""Whether a personal state that came from elsewhere can be worked with, before it is stored.

A backup decrypts only with its passphrase, but says nothing about the program that wrote it: a task
of a later version or tensors that fit nothing would show at the first answer, after the state that
they replaced is gone. Checked without a model: what the state says of itself, and the shapes that
the signed manifest of its release names. Messages name tasks, numbers of items and tensors.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from client.person.state import PersonalState, TaskState
from proper_model.bundle.manifest import Manifest
from proper_model.data import date_key
from proper_model.errors import ProperError, VaultError
from proper_model.tasks import Task, short_id

HINT = "use another copy of the backup, or one of an earlier day; what is stored here is unchanged"
SHARED = "shared.safetensors"
_BUNDLE_ID = re.compile(r"[0-9a-f]{64}")
_FACTOR = re.compile(r"lora\.(.+)\.([ABW])")

Shape = tuple[int, ...]


def check_state(state: PersonalState) -> None:
    """Raise VaultError unless the state is one that this version could have written."""
    if _BUNDLE_ID.fullmatch(state.bundle_id) is None or state.bundle_version < 1:
        raise _bad("it names no release that could be")
    if state.embedding is not None:
        _check_tensor(state.embedding, "the embedding")
    for name, task_state in state.tasks.items():
        where = f"task {short_id(name)}"
        try:
            task = task_state.task()
        except ProperError as error:
            raise VaultError(
                f"the backup's {where} cannot be read by this version: {error.message}",
                hint="update proper, then import again; what is stored here is unchanged",
            ) from None
        if task.name != name:
            raise _bad(f"{where} is filed under another name than its own")
        _check_items(task_state, task, where)
        if task_state.adapter and state.embedding is None:
            raise _bad(f"{where} has an adapter, and there is no embedding")
        _check_adapter(task_state.adapter, where)


def check_fits(state: PersonalState, manifest: Manifest) -> None:
    """Raise VaultError unless every tensor has the shape that the release of this manifest needs."""
    entry = manifest.files.get(SHARED)
    shared = {} if entry is None else entry.tensors or {}
    shapes = {name: tuple(tensor.shape) for name, tensor in shared.items()}
    if state.embedding is not None:
        _check_shape("the embedding", state.embedding, shapes.get("mean_embedding"))
    # One expert, [N, r, d_in] or [N, d_out, r], is as large as one person's factor.
    factors = {
        name.replace("experts.", "lora.", 1): shape[1:]
        for name, shape in shapes.items()
        if name.startswith("experts.")
    }
    # A router of the person's own weighs all experts, [N, d_out].
    routers = {
        name.replace("experts.", "lora.", 1)[:-1] + "W": shape[:2]
        for name, shape in shapes.items()
        if name.startswith("experts.") and name.endswith(".B")
    }
    for name, task_state in state.tasks.items():
        if not task_state.adapter:
            continue
        where = f"task {short_id(name)}"
        if not factors:  # stage 1 alone: no experts that would show the adapter's shapes
            continue
        if task_state.adapter.keys() not in (factors.keys(), (factors | routers).keys()):
            raise _bad(f"{where} adapts other linears than its release has")
        for key, tensor in task_state.adapter.items():
            _check_shape(f"{where}: {key}", tensor, (factors | routers)[key])


def _check_items(state: TaskState, task: Task, where: str) -> None:
    ids = set()
    for number, item in enumerate(state.items, start=1):
        if not task.required_fields <= item.fields.keys():
            raise _bad(f"{where}, item {number}: lacks a field that the task needs")
        if item.date is not None and date_key(item.date) is None:
            raise _bad(f"{where}, item {number}: its date is none of the calendar")
        if not item.id or item.id in ids:
            raise _bad(f"{where}, item {number}: without an id of its own")
        ids.add(item.id)


def _check_adapter(adapter: Mapping[str, Tensor], where: str) -> None:
    ranks: set[int] = set()
    sites: dict[str, set[str]] = {}
    for key, tensor in adapter.items():
        match = _FACTOR.fullmatch(key)
        if match is None:
            raise _bad(f"{where}: holds a tensor that is no factor of an adapter")
        _check_tensor(tensor, f"{where}: a factor {match[2]}")
        if match[2] != "W":
            ranks.add(tensor.shape[0 if match[2] == "A" else 1])
        sites.setdefault(match[1], set()).add(match[2])
    letters = {frozenset(found) for found in sites.values()}
    if len(letters) > 1 or not letters <= {frozenset("AB"), frozenset("ABW")} or len(ranks) > 1:
        raise _bad(f"{where}: factors of its adapter do not match each other")


def _check_tensor(tensor: Tensor, what: str) -> None:
    if tensor.ndim != 2 or not tensor.is_floating_point() or not tensor.numel():
        raise _bad(
            f"{what} is {tensor.dtype} of shape {tuple(tensor.shape)}, expected a matrix of floats"
        )
    if not bool(torch.isfinite(tensor).all()):
        raise _bad(f"{what} holds values that are not finite")


def _check_shape(what: str, tensor: Tensor, expected: Shape | None) -> None:
    if tuple(tensor.shape) != expected:
        raise _bad(f"{what} has shape {tuple(tensor.shape)}, its release expects {expected}")


def _bad(why: str) -> VaultError:
    return VaultError(f"the backup's content cannot be used: {why}", hint=HINT)
