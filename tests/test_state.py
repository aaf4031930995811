"""Private state: bound to bundle, arm, user and data; old or new, never half."""

from __future__ import annotations

import os

import pytest
import torch

from client.node.cohort_adaptation import UserState
from client.person.stores import (
    Binding,
    decode,
    encode,
    has_state,
    load_state,
    save_state,
    user_pseudonym,
)
from proper_model.errors import StateError

BUNDLE = "cd" * 32
BINDING = Binding(bundle_id=BUNDLE, arm="stage3", user_id="user-canary", key="k1")


def make_state(value: float = 1.0, **changes) -> UserState:
    fields = {
        "user_id": "user-canary",
        "arm": "stage3",
        "bundle_id": BUNDLE,
        "tensors": {"embedding": torch.full((1, 4), value), "lora.x.A": torch.eye(3)[:, :2].T},
        "report": {"loss_after": 0.5, "lora_epochs": 2, "source": "mean"},
    }
    return UserState(**{**fields, **changes})


def test_round_trip_keeps_tensors_and_report():
    state = make_state()
    back = decode(encode(state, BINDING), BINDING)
    assert set(back.tensors) == {"embedding", "lora.x.A"}
    assert all(torch.equal(back.tensors[n], state.tensors[n]) for n in state.tensors)
    assert back.report == state.report
    assert (back.user_id, back.arm, back.bundle_id) == ("user-canary", "stage3", BUNDLE)


def test_the_file_does_not_name_the_user(tmp_path):
    save_state(tmp_path, make_state(), BINDING)
    data = (tmp_path / "stage3.state").read_bytes()
    assert b"user-canary" not in data
    assert user_pseudonym(BUNDLE, "user-canary").encode() in data
    assert user_pseudonym("00" * 32, "user-canary").encode() not in data
    assert (tmp_path / "stage3.state").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "other",
    [
        Binding(bundle_id="00" * 32, arm="stage3", user_id="user-canary", key="k1"),
        Binding(bundle_id=BUNDLE, arm="oppu-mlp", user_id="user-canary", key="k1"),
        Binding(bundle_id=BUNDLE, arm="stage3", user_id="somebody", key="k1"),
        Binding(bundle_id=BUNDLE, arm="stage3", user_id="user-canary", key="k2"),
    ],
    ids=["bundle", "arm", "user", "key"],
)
def test_state_of_something_else_is_refused(other):
    data = encode(make_state(), BINDING)
    with pytest.raises(StateError, match="another") as caught:
        decode(data, other)
    assert "user-canary" not in str(caught.value)


def test_every_altered_byte_is_noticed():
    data = encode(make_state(), BINDING)
    for position in range(len(data)):
        altered = bytearray(data)
        altered[position] ^= 0x40
        with pytest.raises(StateError):
            decode(bytes(altered), BINDING)


def test_truncated_and_extended_files_are_refused():
    data = encode(make_state(), BINDING)
    for altered in (*(data[:n] for n in range(len(data))), data + b"\0"):
        with pytest.raises(StateError):
            decode(altered, BINDING)


def test_saving_keeps_the_generation_before(tmp_path):
    save_state(tmp_path, make_state(1.0), BINDING)
    save_state(tmp_path, make_state(2.0), BINDING)
    assert load_state(tmp_path, BINDING).tensors["embedding"][0, 0] == 2.0
    (tmp_path / "stage3.state").write_bytes(b"torn")
    assert load_state(tmp_path, BINDING).tensors["embedding"][0, 0] == 1.0
    (tmp_path / "stage3.previous").write_bytes(b"torn too")
    assert not has_state(tmp_path, BINDING)


def test_a_failing_write_leaves_the_old_state(tmp_path, monkeypatch):
    save_state(tmp_path, make_state(1.0), BINDING)

    def full(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        save_state(tmp_path, make_state(2.0), BINDING)
    monkeypatch.undo()
    assert load_state(tmp_path, BINDING).tensors["embedding"][0, 0] == 1.0
    assert not [path for path in tmp_path.iterdir() if path.name.endswith(".tmp")]


def test_what_is_not_finite_is_not_saved(tmp_path):
    with pytest.raises(StateError, match="not finite"):
        save_state(tmp_path, make_state(float("nan")), BINDING)
    with pytest.raises(StateError, match="report"):
        save_state(tmp_path, make_state(report={"loss": float("inf")}), BINDING)
    assert list(tmp_path.iterdir()) == []


def test_a_link_is_not_followed(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    save_state(tmp_path / "elsewhere", make_state(), BINDING)
    (tmp_path / "stage3.state").symlink_to(tmp_path / "elsewhere" / "stage3.state")
    with pytest.raises(StateError):
        load_state(tmp_path, BINDING)


def test_state_of_another_user_cannot_be_saved_here(tmp_path):
    with pytest.raises(StateError):
        save_state(tmp_path, make_state(user_id="somebody"), BINDING)
