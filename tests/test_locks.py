"""The one lock: exclusive between threads too, freed with its process, readable by its owner only."""

from __future__ import annotations

import os
import stat
import threading
import time
from pathlib import Path

import pytest

from proper_model.storage.durable import is_locked, locked


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / ".lock"


def test_a_lock_file_is_its_owners_and_stays(path: Path) -> None:
    old = os.umask(0)
    try:
        with locked(path, timeout_s=0):
            assert is_locked(path)
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            inode = path.stat().st_ino
    finally:
        os.umask(old)
    assert not is_locked(path)
    with locked(path, timeout_s=0):
        assert path.stat().st_ino == inode


def test_threads_of_one_process_keep_each_other_out(path: Path) -> None:
    told = []

    def second() -> None:
        try:
            with locked(path, timeout_s=0.01):
                told.append("in")
        except TimeoutError as error:
            told.append(str(error))

    with locked(path, timeout_s=0):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join()
    with locked(path, timeout_s=0):
        pass
    assert told == [".lock is locked by another process"]


def test_who_waits_gets_it_when_it_is_free_and_no_earlier(path: Path) -> None:
    entered, held = [], threading.Event()

    def first() -> None:
        with locked(path, timeout_s=0):
            held.set()
            time.sleep(0.1)
            entered.append("first ends")

    thread = threading.Thread(target=first)
    thread.start()
    held.wait()
    with locked(path, timeout_s=float("inf")):
        entered.append("second")
    thread.join()
    assert entered == ["first ends", "second"]


def test_what_is_held_is_freed_whichever_thread_ends_it(path: Path) -> None:
    hold = locked(path, timeout_s=0)
    hold.__enter__()
    thread = threading.Thread(target=lambda: hold.__exit__(None, None, None))
    thread.start()
    thread.join()
    assert not is_locked(path)


def test_two_who_ask_at_once_do_not_take_each_other_for_a_holder(path: Path) -> None:
    path.touch(0o600)
    answers: list[bool] = []
    threads = [
        threading.Thread(target=lambda: answers.extend(is_locked(path) for _ in range(50)))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [False] * 100


def test_a_link_in_the_place_of_a_lock_is_not_followed(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(b"mine")
    path.symlink_to(other)
    with pytest.raises(OSError), locked(path, timeout_s=0):
        pass
    assert not is_locked(path)
    assert other.read_bytes() == b"mine"


def test_what_goes_wrong_inside_is_told_as_it_is(path: Path) -> None:
    with pytest.raises(TimeoutError, match="mine"), locked(path, timeout_s=0):
        raise TimeoutError("mine")
    assert not is_locked(path)
