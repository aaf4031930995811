"""Reading files that somebody else may have put there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from proper_model.files import read_regular


@pytest.fixture
def planted(tmp_path: Path) -> dict[str, Path]:
    made = {name: tmp_path / name for name in ("folder", "pipe", "link", "large")}
    made["folder"].mkdir()
    os.mkfifo(made["pipe"])
    made["link"].symlink_to(made["large"])
    made["large"].write_bytes(b"12345")
    return made


def open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


@pytest.mark.parametrize("kind", ["folder", "pipe", "link", "large"])
def test_what_is_no_small_regular_file_is_refused_and_closed(
    planted: dict[str, Path], kind: str
) -> None:
    before = open_files()
    with pytest.raises(OSError, match="file|link|than"):
        read_regular(planted[kind], limit_bytes=4)
    assert open_files() == before


def test_a_regular_file_is_read_whole(planted: dict[str, Path]) -> None:
    assert read_regular(planted["large"], limit_bytes=5) == b"12345"
