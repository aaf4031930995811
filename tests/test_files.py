"""Reading files that somebody else may have put there; telling what the system refuses."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from proper_model.errors import StorageError
from proper_model.storage import durable, files
from proper_model.storage.durable import create_file
from proper_model.storage.files import (
    make_private_folder,
    read_regular,
    storage_errors,
    write_atomic,
)


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


def test_a_refused_write_names_the_file_and_the_systems_reason(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("mine")
    for target, reason in (
        (tmp_path / "folder", "Is a directory"),
        (tmp_path / "none" / "file", "No such file or directory"),
        (tmp_path / "file" / "below", "Not a directory"),
    ):
        with pytest.raises(StorageError) as caught, storage_errors(tmp_path):
            write_atomic(target, b"new")
        assert caught.value.message.startswith(f"{target}: {reason}; expected")
        assert caught.value.hint
    with pytest.raises(StorageError, match=r"file/run: Not a directory"), storage_errors(tmp_path):
        make_private_folder(tmp_path / "file" / "run")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]


def test_new_private_folders_have_reached_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[Path] = []
    monkeypatch.setattr(files, "sync_folder", synced.append)
    make_private_folder(tmp_path / "a" / "b")
    assert synced == [tmp_path, tmp_path / "a"]
    make_private_folder(tmp_path / "a" / "b")
    assert len(synced) == 2

    def refused(folder: Path) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))

    monkeypatch.setattr(files, "sync_folder", refused)  # a folder one may not list
    assert make_private_folder(tmp_path / "c").is_dir()


def test_a_name_that_is_taken_says_so(tmp_path: Path) -> None:
    create_file(tmp_path / "file", b"one")
    with pytest.raises(StorageError) as caught, storage_errors(tmp_path):
        create_file(tmp_path / "file", b"two")
    assert "already" in caught.value.hint
    assert "folder" not in caught.value.hint
    assert (tmp_path / "file").read_bytes() == b"one"


@pytest.mark.parametrize("unnamed", [True, False])
def test_a_new_file_appears_whole_or_not_at_all(
    unnamed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not unnamed:  # as on other systems than Linux, and on file systems without such files
        monkeypatch.setattr(durable, "_unnamed", lambda _: None)

    def failing() -> Iterator[bytes]:
        yield b"half"
        raise ValueError

    with pytest.raises(ValueError):
        create_file(tmp_path / "file", failing())
    assert list(tmp_path.iterdir()) == []
    create_file(tmp_path / "file", [b"on", b"e"])
    with pytest.raises(FileExistsError):
        create_file(tmp_path / "file", b"two")
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("file", b"one")]
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o600


def test_killed_while_it_is_written_a_new_file_leaves_nothing(tmp_path: Path) -> None:
    """It may hold a person's text in the clear: answers, an export."""
    handle = durable._unnamed(tmp_path)
    if handle is None:
        pytest.skip("no files without a name here")
    os.close(handle)
    code = (
        "import os, sys; from pathlib import Path; from proper_model.storage.durable import create_file\n"
        "def parts():\n"
        "    yield b'private' * 100_000\n"
        "    os.kill(os.getpid(), 9)\n"
        "create_file(Path(sys.argv[1]), parts())\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "file")], check=False)
    assert done.returncode == -9
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_names_the_file_and_keeps_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    (tmp_path / "a").write_text("old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="a: No space left") as caught, storage_errors(tmp_path):
        write_atomic(tmp_path / "a", b"new")
    assert "room" in (caught.value.hint or "")
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("a", "old")]


@pytest.mark.parametrize("error", [OSError("a library's text"), ConnectionResetError(104, "x")])
def test_what_is_not_about_files_is_left_alone(tmp_path: Path, error: OSError) -> None:
    with pytest.raises(type(error)) as caught, storage_errors(tmp_path):
        raise error
    assert caught.value is error


def test_a_limit_of_gigabytes_costs_no_memory(tmp_path: Path) -> None:
    """Read in a process that may map far less than the limit it names."""
    path = tmp_path / "small"
    path.write_bytes(b"x" * 1000)
    code = (
        "import resource, sys; from pathlib import Path\n"
        "from proper_model.storage.files import read_bounded\n"
        "resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))\n"
        "assert len(read_bounded(Path(sys.argv[1]), 4 << 30)) == 1000\n"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], check=True)


@pytest.mark.parametrize(
    ("number", "said"), [(errno.EFBIG, "ulimit -f"), (errno.EROFS, "name another place")]
)
def test_the_next_step_is_that_of_the_reason(tmp_path: Path, number: int, said: str) -> None:
    with pytest.raises(StorageError) as caught, storage_errors(tmp_path):
        raise OSError(number, os.strerror(number), "file")
    assert said in (caught.value.hint or "")
    assert "permissions" not in (caught.value.hint or "")
