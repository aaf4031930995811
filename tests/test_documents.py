"""Hostile documents through every reader: each answers with the error it declares, or a default."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from outcomes import outcome
from safetensors.numpy import save

from client.commands.generate import open_questions
from client.home import Home
from client.node.device import USER_FILE, DeviceFolder
from client.node.host_work import Engine
from client.node.pieces import PieceStore
from client.person import state as personal_state
from client.person.stores import DIGEST_BYTES, MAGIC, Binding, decode_bound
from client.releases.bases import base_of
from client.releases.partial_file import PartialFile
from client.releases.store import BUNDLES_FOLDER, STATE_NAME
from client.releases.store import read_state as read_store
from client.vault import backup
from client.vault.keys_document import decode_keys
from client.vault.sealing import read_header
from coordinator.federation import MessageLedger
from coordinator.journal import JOURNAL_FILE, Journal
from proper_model.base.folder import INDEX, weight_files
from proper_model.base.outside_config import parse_config
from proper_model.base.sizes import read_header as read_tensors
from proper_model.bundle.latest import parse_latest
from proper_model.bundle.limits import DEFAULT_LIMITS
from proper_model.bundle.manifest import BaseReference, parse_manifest
from proper_model.bundle.safe_tensors import read_table
from proper_model.bundle.trusted_root import TrustedRoot
from proper_model.engine.checkpoint import load_checkpoint
from proper_model.errors import (
    BaseModelError,
    BundleError,
    BundleFormatError,
    CheckpointError,
    ConfigError,
    DataError,
    StateError,
    TaskError,
    VaultError,
)
from proper_model.federation.run_plan import RunPlan
from proper_model.federation.step_clock import read_seconds
from proper_model.release.recipe import parse_recipe
from proper_model.settings.shipped_profiles import load_profile
from proper_model.storage import canonical
from proper_model.storage.documents import DocumentError, parse_json, parse_toml
from proper_model.storage.json_stream import iter_array, read_object
from proper_model.tasks.task import load_task
from proper_model.text.tokenizer_files import clean_config

DIGITS = b"1" * 5000
DOCUMENTS = {
    "nothing": b"",
    "null": b"null",
    "number": b"7",
    "text": b'"x"',
    "list": b"[]",
    "list of lists": b"[[1, 2]]",
    "object": b"{}",
    "object of null": b'{"format":null,"version":null,"node":null,"input":null,"weight_map":null}',
    "object of lists": b'{"format":[],"version":[],"node":[],"input":[],"weight_map":[],"steps":[1]}',
    "object of objects": b'{"format":{},"version":{},"node":{},"weight_map":{"a":{}},"steps":{"a":{}}}',
    "deep list": b"[" * 200_000,
    "whole deep list": b"[" * 200_000 + b"]" * 200_000,
    "moderately deep": b'{"a":' * 500 + b"1" + b"}" * 500,
    "deep object": b'{"a":' * 200_000,
    "twice": b'{"format":1,"format":2}',
    "NaN": b'{"format":NaN,"node":NaN,"a":NaN}',
    "infinity": b'{"format":Infinity,"node":-Infinity}',
    "beyond floats": b'{"format":1e999,"node":1e999,"a":1e999}',
    "digits": b'{"format":' + DIGITS + b',"node":' + DIGITS + b"}",
    "many bits": b'{"format":18446744073709551617,"node":18446744073709551617,"a":["b",1e30]}',
    "negative": b'{"format":-1,"node":-5,"version":-1,"a":["b",-1]}',
    "half a pair": b'{"format":"\\ud800","input":"\\udfff","\\ud800":1,"name":"\\udc00"}',
    "NUL": b'{"a":["\\u0000",1],"format":"\\u0000","input":"\\u0000"}',
    "not UTF-8": b'{"format":"\xff"}',
    "UTF-16": '{"format":1}'.encode("utf-16"),
    "byte order mark": b"\xef\xbb\xbf{}",
    "cut off": b'{"format":1,"a":"b',
    "more after it": b"{} {}",
    "HTML": b"<!doctype html>",
    "TOML digits": b"format = " + DIGITS,
    "TOML hex": b"format = 0x" + b"f" * 5000,
    "TOML deep": b"format = " + b"[" * 5000,
    "TOML deep tables": b"format = " + b"{a=" * 5000,
    "TOML long key": b"a." * 20_000 + b"a = 1",
    "TOML infinity": b"max_grad_norm = inf\nname = 'x'",
    "TOML date": b"name = 2020-01-01\nkind = 25:61:61",
    "TOML twice": b"a = 1\na = 2",
}
Reader = Callable[[bytes, Path], Any]


def at(name: str, read: Callable[[Path], Any]) -> Reader:
    """A reader of a file of this name."""

    def write(data: bytes, folder: Path) -> Any:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.write_bytes(data)
        path.chmod(0o600)
        return read(path)

    return write


def user(data: bytes, folder: Path) -> object:
    (folder / USER_FILE).write_bytes(data)
    plan = RunPlan.model_construct(task_toml=load_task("LaMP_3").toml_text, template="short")
    return Engine(1).read_user(DeviceFolder("d", folder), plan)


def questions(path: Path) -> list[object]:
    with open_questions(path) as found:
        return list(found.rows)


def index(path: Path) -> object:
    store = PieceStore(path.parent)
    return store.missing(["b", "a", "0" * 64])


def base_record(path: Path) -> object:
    return base_of(Home(path.parent), BaseReference("o/m", "r", {"model.safetensors": "0" * 64}))


def state(data: bytes, _folder: Path) -> object:
    content = framed(MAGIC, data)
    sealed = content + hashlib.sha256(content).digest()
    assert len(hashlib.sha256(content).digest()) == DIGEST_BYTES
    return decode_bound(sealed, Binding("b", "stage1", "u", 1, "k"))


def framed(magic: bytes, data: bytes, more: bytes = b"") -> bytes:
    return magic + struct.pack(">I", len(data)) + data + more


def tensor_bytes(data: bytes) -> bytes:
    return struct.pack("<Q", len(data)) + data


def checkpoint(path: Path) -> object:
    """The document as the meta that a whole file of tensors carries."""
    text = path.read_bytes().decode("utf-8", "replace")
    path.write_bytes(save({}, {"state": text}))
    return load_checkpoint(path)


def partial(data: bytes, folder: Path) -> object:
    place = PartialFile(folder, "https://x", "n", 100)
    place._note.write_bytes(data)
    place._path.write_bytes(b"abc")
    return PartialFile(folder, "https://x", "n", 100)


READERS: dict[str, tuple[type[Exception] | None, Reader]] = {
    "documents: JSON": (DocumentError, lambda d, _: parse_json(d)),
    "documents: TOML": (DocumentError, lambda d, _: parse_toml(d)),
    "canonical": (BundleFormatError, lambda d, _: canonical.decode(d, where="x")),
    "manifest": (BundleError, lambda d, _: parse_manifest(d, DEFAULT_LIMITS)),
    "root": (BundleError, lambda d, _: TrustedRoot.from_bytes(d)),
    "latest": (BundleFormatError, lambda d, _: parse_latest(d)),
    "recipe": (BundleFormatError, lambda d, _: parse_recipe(d)),
    "base config": (BundleFormatError, lambda d, _: parse_config(d)),
    "tokenizer config": (BundleFormatError, lambda d, _: clean_config(d)),
    "tensor header": (
        BundleFormatError,
        lambda d, _: read_table(tensor_bytes(d), DEFAULT_LIMITS, where="x"),
    ),
    "base header": (BaseModelError, lambda d, f: at("x", read_tensors)(tensor_bytes(d), f)),
    "base index": (BaseModelError, at(INDEX, lambda p: list(weight_files("b", p.parent)))),
    "task": (TaskError, at("t.toml", lambda p: load_task(str(p)))),
    "profile": (ConfigError, at("p.toml", load_profile)),
    "plan": (ConfigError, at("plan.json", RunPlan.load)),
    "LaMP object": (DataError, at("o.json", read_object)),
    "LaMP array": (DataError, at("a.json", lambda p: list(iter_array(p)))),
    "questions": (DataError, at("q.jsonl", questions)),
    "user": (DataError, user),
    "installed state": (
        StateError,
        at(f"{BUNDLES_FOLDER}/{STATE_NAME}", lambda p: read_store(p.parent.parent)),
    ),
    "bases": ((StateError, BaseModelError), at("bases.json", base_record)),  # type: ignore[dict-item]
    "node state": (StateError, state),
    "personal document": (
        VaultError,
        lambda d, _: personal_state.decode(framed(personal_state.MAGIC, d)),
    ),
    "backup": (VaultError, lambda d, _: backup.decode(framed(backup.MAGIC, d))),
    "vault header": (
        VaultError,
        lambda d, _: read_header(framed(b"PROPERV1", d, bytes(64)), where="x"),
    ),
    "vault keys": (VaultError, lambda d, _: decode_keys(d)),
    "checkpoint": (CheckpointError, at("c.safetensors", checkpoint)),
    "pieces": (None, at("pieces.json", index)),
    "partial download": (None, partial),
    "journal": (None, at(JOURNAL_FILE, lambda p: Journal.open(p.parent, "x"))),
    "messages": (None, at("messages.jsonl", MessageLedger)),
    "seconds": (None, at("timings.json", read_seconds)),
}


@pytest.mark.parametrize("name", READERS)
def test_a_reader_raises_what_it_declares(name: str, tmp_path: Path) -> None:
    declared, read = READERS[name]
    raised = {}
    for number, (kind, data) in enumerate(DOCUMENTS.items()):
        folder = tmp_path / str(number)
        folder.mkdir(mode=0o700)
        try:
            read(data, folder)
        except Exception as error:  # noqa: BLE001 - whatever it is, it must be the declared one
            raised[kind] = error
    foreign = {k: repr(e) for k, e in raised.items() if not isinstance(e, declared or ())}
    assert not foreign
    assert declared is None or raised


@pytest.mark.parametrize(
    "data",
    [
        b'{"a": 1.5, "b": [true, null, "\\ud83d\\ude00"]}',
        "[1000000000000000019884624838656]",
        b"[" * 64 + b"]" * 64,
    ],
)
def test_plain_documents_are_read(data: bytes | str) -> None:
    assert parse_json(data) == json.loads(data)


@pytest.mark.parametrize("depth", [63, 64, 65])
def test_the_depth_is_counted(depth: int) -> None:
    error = DocumentError if depth > 64 else None
    with outcome(error, match="deeper than 64"):
        parse_json("[" * depth + "]" * depth)
    with outcome(error, match="deeper than 64"):
        parse_toml("a = " + "[" * (depth - 1) + "]" * (depth - 1))


def test_our_own_files_may_hold_losses_that_are_not_finite() -> None:
    found = parse_json("[NaN, -Infinity]", constants=True)
    assert found[0] != found[0]
    assert found[1] == float("-inf")


@pytest.mark.parametrize(
    "key", ["a" + ".a" * 16, '"a". ' * 16 + "a", "x = 1\n[t" + ".t" * 16 + "]\n# "]
)
def test_a_key_of_many_parts_costs_no_time(key: str) -> None:
    """tomllib's time grows with the square of the parts: a line of 64 KiB takes half a minute."""
    with pytest.raises(DocumentError, match="parts"):
        parse_toml(key + " = 1")
    assert parse_toml('a.b.c = "text. with. dots. ' + "a." * 40 + '"')["a"]
