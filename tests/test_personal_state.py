"""The personal document's bounds: what is written can be read, and what cannot is told before."""

from __future__ import annotations

from pathlib import Path

import pytest
from vault_samples import BUNDLE

from client.commands import export
from client.person import state
from client.person.state import PersonalState, TaskState, decode, encode
from client.vault import backup
from proper_model.errors import ExportError, VaultError
from proper_model.tasks.records import HistoryItem

ITEM = HistoryItem("1", {"text": "x" * 100}, None)
TASK = TaskState("toml", "template", (ITEM,), {}, {}, "2026-01-01T00:00:00Z")
STATE = PersonalState(BUNDLE, 1, seed=1, tasks={"t": TASK})


def test_nothing_is_written_that_could_not_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode(STATE)
    length = int.from_bytes(data[8:12], "big")
    monkeypatch.setattr(state, "MAX_HEADER_BYTES", length)
    assert decode(encode(STATE)) == STATE
    monkeypatch.setattr(state, "MAX_HEADER_BYTES", length - 1)
    with pytest.raises(VaultError, match=f"{length} bytes of history; expected at most") as caught:
        encode(STATE)
    assert "--max-items" in (caught.value.hint or "")
    with pytest.raises(VaultError, match="cut off"):
        decode(data)


def test_what_no_backup_holds_is_told_before_a_passphrase_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backup, "MAX_PAYLOAD_BYTES", 100)
    with pytest.raises(ExportError, match="a backup holds at most 100 B") as caught:
        export.export_backup(STATE, tmp_path / "out", None, weak=False)
    assert "proper path" in (caught.value.hint or "")
    assert not (tmp_path / "out").exists()
