"""Simulated people's documents: bound to bundle, arm, user and data; old or new, never half."""

from __future__ import annotations

import dataclasses
import os

import pytest
import torch

from client.person import stores
from client.person.state import PersonalState, TaskState
from client.person.stores import (
    EARLIER,
    Binding,
    FolderStore,
    decode_bound,
    encode_bound,
    report_in,
    user_pseudonym,
)
from proper_model.errors import StateError
from proper_model.storage.files import read_bounded
from proper_model.tasks.records import HistoryItem

BUNDLE = "cd" * 32
BINDING = Binding(bundle_id=BUNDLE, arm="stage3", user_id="user-canary", seed=5, key="k1")
REPORT = {"lora_loss_after": 0.5, "lora_epochs": 2}


def make_state(value: float = 1.0, *, report=REPORT, **changes) -> PersonalState:
    adapter = {"lora.x.A": torch.eye(3)[:, :2].T}
    fields = {
        "bundle_id": BUNDLE,
        "bundle_version": 0,
        "seed": 5,
        "embedding": torch.full((1, 4), value),
        "embedding_report": {"embedding_source": "mean"},
        "tasks": {"t": TaskState("toml", "short", (), adapter, report, "2026-01-01T00:00:00Z")},
    }
    return PersonalState(**{**fields, **changes})


@pytest.fixture
def store(tmp_path) -> FolderStore:
    return FolderStore(tmp_path, BINDING)


def value_in(store: FolderStore) -> float:
    return float(store.read().embedding[0, 0])


def test_round_trip_keeps_tensors_and_report(store):
    state = make_state()
    store.write(state)
    back = store.read()
    assert set(back.private("t")) == {"embedding", "lora.x.A"}
    assert all(torch.equal(t, state.private("t")[n]) for n, t in back.private("t").items())
    assert dataclasses.replace(back, tasks={}, embedding=None) == dataclasses.replace(
        state, tasks={}, embedding=None
    )
    assert back.tasks["t"].report == REPORT
    assert report_in(store.folder, "stage3") == {"embedding_source": "mean", **REPORT}
    assert FolderStore.found(store.folder, "stage3", "user-canary") == store


def test_the_file_names_neither_the_user_nor_an_item(store):
    item = HistoryItem("item-canary", {"text": "text-canary"}, None)
    state = make_state()
    whole = state.with_task(
        "t", dataclasses.replace(state.tasks["t"], items=(item,), waiting=("item-canary",))
    )
    store.write(whole.without_items())
    data = (store.folder / "stage3.state").read_bytes()
    assert b"canary" not in data
    assert user_pseudonym(BUNDLE, "user-canary").encode() in data
    assert user_pseudonym("00" * 32, "user-canary").encode() not in data
    assert (store.folder / "stage3.state").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "other",
    [
        {"bundle_id": "00" * 32},
        {"arm": "oppu-mlp"},
        {"user_id": "somebody"},
        {"seed": 6},
        {"key": "k2"},
    ],
    ids=lambda other: next(iter(other)),
)
def test_state_of_something_else_is_refused(store, other):
    binding = dataclasses.replace(BINDING, **other)
    with pytest.raises(StateError, match="another") as caught:
        decode_bound(encode_bound(make_state(), BINDING), binding)
    assert "user-canary" not in str(caught.value)
    store.write(make_state())
    assert store.exists()
    assert not FolderStore(store.folder, binding).exists()


def test_every_altered_byte_is_noticed():
    data = encode_bound(make_state(), BINDING)
    for position in range(len(data)):
        altered = bytearray(data)
        altered[position] ^= 0x40
        with pytest.raises(StateError):
            decode_bound(bytes(altered), BINDING)


def test_truncated_and_extended_files_are_refused(store):
    data = encode_bound(make_state(), BINDING)
    path = store.folder / "stage3.state"
    for altered in (*(data[:n] for n in range(len(data))), data + b"\0"):
        with pytest.raises(StateError):
            decode_bound(altered, BINDING)
        path.write_bytes(altered)
        assert not store.exists()
    path.write_bytes(data)
    assert store.exists()


def test_whether_there_is_one_is_known_without_reading_it(store, monkeypatch):
    """A document of 4 MiB, of which only the beginning may be read."""
    store.write(make_state(embedding=torch.ones(1, 1 << 20)))
    asked: list[int] = []

    def counted(path, most):
        asked.append(most)
        return read_bounded(path, most)

    monkeypatch.setattr(stores, "read_regular", None)
    monkeypatch.setattr(stores, "read_bounded", counted)
    assert store.exists()
    assert 0 < sum(asked) <= 1 << 13
    store.remove()
    assert not store.exists()


def test_a_file_of_an_earlier_version_is_recognized_and_trained_anew(store):
    (store.folder / "stage3.state").write_bytes(EARLIER + bytes(100))
    assert not store.exists()
    with pytest.raises(StateError, match="earlier version") as caught:
        store.read()
    assert "personalization round again" in (caught.value.hint or "")
    store.write(make_state(2.0))
    assert value_in(store) == 2.0


def test_saving_keeps_the_generation_before(store):
    store.write(make_state(1.0))
    store.write(make_state(2.0))
    assert value_in(store) == 2.0
    (store.folder / "stage3.state").write_bytes(b"torn")
    assert value_in(store) == 1.0
    (store.folder / "stage3.previous").write_bytes(b"torn too")
    assert not store.exists()


def test_a_failing_write_leaves_the_old_state(store, monkeypatch):
    store.write(make_state(1.0))

    def full(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        store.write(make_state(2.0))
    monkeypatch.undo()
    assert value_in(store) == 1.0
    assert not [path for path in store.folder.iterdir() if path.name.endswith(".tmp")]


def test_a_write_removes_what_a_killed_one_left(store):
    for name in (
        ".stage3.state.0123456789ab.tmp",
        ".stage3.0123456789ab.tmp",
        ".stage2.state.0.tmp",
    ):
        (store.folder / name).write_bytes(b"private tensors")
    store.write(make_state())
    assert sorted(path.name for path in store.folder.iterdir()) == [
        ".stage2.state.0.tmp",
        "stage3.state",
    ]


def test_what_is_not_finite_is_not_saved(store):
    with pytest.raises(StateError, match="not finite"):
        store.write(make_state(float("nan")))
    with pytest.raises(StateError, match="report"):
        store.write(make_state(report={"loss": float("inf")}))
    assert list(store.folder.iterdir()) == []


def test_a_link_is_not_followed(store):
    elsewhere = FolderStore(store.folder / "elsewhere", BINDING)
    elsewhere.folder.mkdir()
    elsewhere.write(make_state())
    (store.folder / "stage3.state").symlink_to(elsewhere.folder / "stage3.state")
    assert not store.exists()
    with pytest.raises(StateError):
        store.read()


@pytest.mark.parametrize("other", [{"seed": 6}, {"bundle_id": "00" * 32}], ids=["user", "bundle"])
def test_state_of_another_user_cannot_be_saved_here(store, other):
    with pytest.raises(StateError, match="does not belong"):
        store.write(make_state(**other))
