"""A user's private state on disk: what adaptation made, bound to the bundle, arm and user.

One file an arm, `state/<arm>.state`, holds every private tensor together, so that a LoRA and the
embedding it was trained with cannot diverge; the generation before it stays as
`<arm>.previous`. Layout: 8 bytes magic, 4 bytes header length (big endian), canonical JSON
header, safetensors, SHA-256 of everything before. The header names bundle, arm, a pseudonym of the
user and the key of what the state was trained from; all are compared before a tensor is parsed.
`encode` and `decode` are the only two functions that know the layout: encryption goes around
them. Source: docs/security.md 3 (storage), docs/method.md 3 (what stage 3 keeps).
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from client.node.cohort_adaptation import UserState
from proper_model.errors import StateError
from proper_model.storage.documents import DocumentError, parse_json
from proper_model.storage.files import read_regular, write_atomic

MAGIC = b"PROPERS1"
DIGEST_BYTES = 32
MAX_HEADER_BYTES = 1 << 20
MAX_STATE_BYTES = 4 << 30

HINT = "run the personalization round again; it trains this user's state anew"


@dataclass(frozen=True)
class Binding:
    """What a state belongs to. `key` is a hash of settings and data it was trained from."""

    bundle_id: str
    arm: str
    user_id: str
    key: str

    def header(self) -> dict[str, str]:
        return {
            "bundle_id": self.bundle_id,
            "arm": self.arm,
            "user": user_pseudonym(self.bundle_id, self.user_id),
            "key": self.key,
        }


def user_pseudonym(bundle_id: str, user_id: str) -> str:
    """A name for the user that says nothing without knowing the id; differs by bundle."""
    return hashlib.sha256(f"proper user\0{bundle_id}\0{user_id}".encode()).hexdigest()


def encode(state: UserState, binding: Binding) -> bytes:
    """The file content. Raises StateError if the state is not finite or not this binding's."""
    if (state.bundle_id, state.arm, state.user_id) != (
        binding.bundle_id,
        binding.arm,
        binding.user_id,
    ):
        raise StateError(f"state of arm {state.arm}: does not belong to the user it is saved for")
    for name, tensor in state.tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise StateError(
                f"state of arm {state.arm}: tensor '{name}' holds a value that is not finite",
                hint="lower the learning rate of the profile's [user] table",
            )
    payload: bytes = save_tensors(
        {name: t.detach().cpu().contiguous() for name, t in state.tensors.items()}
    )
    header = {
        **binding.header(),
        "format": 1,
        "report": dict(state.report),
    }
    try:
        text = json.dumps(header, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError):
        raise StateError(
            f"state of arm {state.arm}: its report must hold finite numbers and short names"
        ) from None
    head = text.encode()
    content = MAGIC + struct.pack(">I", len(head)) + head + payload
    return content + hashlib.sha256(content).digest()


def decode(data: bytes, binding: Binding) -> UserState:
    """The state in `data`. Raises StateError if it is damaged or belongs to something else."""
    where = f"state of arm {binding.arm}"
    start = len(MAGIC) + 4
    if len(data) < start + DIGEST_BYTES or not data.startswith(MAGIC):
        raise StateError(f"{where}: not a PROPER state file", hint=HINT)
    content, digest = data[:-DIGEST_BYTES], data[-DIGEST_BYTES:]
    if hashlib.sha256(content).digest() != digest:
        raise StateError(f"{where}: the file is damaged", hint=HINT)
    (length,) = struct.unpack(">I", content[len(MAGIC) : start])
    if length > MAX_HEADER_BYTES or start + length > len(content):
        raise StateError(f"{where}: the file is cut off", hint=HINT)
    header = _header(content[start : start + length], where)
    for field, expected in binding.header().items():
        if header.get(field) != expected:
            raise StateError(f"{where}: made for another {field.removesuffix('_id')}", hint=HINT)
    try:
        tensors = load_tensors(content[start + length :])
    except SafetensorError:
        raise StateError(f"{where}: the tensors cannot be read", hint=HINT) from None
    report = header.get("report")
    if not isinstance(report, dict):
        raise StateError(f"{where}: the header has no report", hint=HINT)
    return UserState(
        user_id=binding.user_id,
        arm=binding.arm,
        bundle_id=binding.bundle_id,
        tensors=tensors,
        report=report,
    )


def _header(raw: bytes, where: str) -> Mapping[str, object]:
    try:
        header = parse_json(raw, constants=True)
    except DocumentError:
        raise StateError(f"{where}: the header is damaged", hint=HINT) from None
    if not isinstance(header, dict) or header.get("format") != 1:
        raise StateError(f"{where}: a format this version does not know", hint=HINT)
    return header


def save_state(folder: Path, state: UserState, binding: Binding) -> None:
    """Write a new generation and keep the old one. At every moment one of the two is complete."""
    current = folder / f"{binding.arm}.state"
    data = encode(state, binding)
    if current.is_file() and not current.is_symlink():
        # A second name for the old file first, so that no moment is without a current file.
        linked = folder / f".{binding.arm}.{secrets.token_hex(6)}.tmp"
        os.link(current, linked, follow_symlinks=False)
        os.replace(linked, folder / f"{binding.arm}.previous")
    write_atomic(current, data)


def load_state(folder: Path, binding: Binding) -> UserState:
    """The newest generation that is whole and belongs to `binding`.

    Raises StateError saying why the current one is not usable, if the previous one is not either.
    """
    problem: StateError | None = None
    for suffix in ("state", "previous"):
        try:
            data = read_regular(folder / f"{binding.arm}.{suffix}", limit_bytes=MAX_STATE_BYTES)
            return decode(data, binding)
        except OSError as error:
            reason = os.strerror(error.errno or 0)
            failed = StateError(f"state of arm {binding.arm}: {reason}", hint=HINT)
        except StateError as error:
            failed = error
        problem = problem or failed
    assert problem is not None
    raise problem


def has_state(folder: Path, binding: Binding) -> bool:
    """True if `load_state` would succeed."""
    try:
        load_state(folder, binding)
    except StateError:
        return False
    return True
