"""The device alone: no network, no file outside its home, nothing readable of a person's text.

The whole program runs under strace, in a network namespace without interfaces where the system
allows one. A person's text is searched for in every file that was written and all that was said,
in many encodings; tests/test_scanner.py shows that the search finds what it should.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from proper_model.tasks.records import HistoryItem
from simulations.privacy.egress.canaries import Canary
from simulations.privacy.egress.scanner import Scanner
from tests.device_cli import CANARY, Person, publish_release, quick_release, write_jsonl
from tests.releases import small_users

OPENED = re.compile(
    r'(?:openat|open|creat)\((?:AT_FDCWD, )?"(?P<path>(?:[^"\\]|\\.)*)", (?P<flags>[A-Z_|]+)'
)
MADE = re.compile(r'(?:mkdir|mkdirat|rename|renameat2?|link|linkat)\(.*?"(?P<path>[^"]*)"')
WRITES = ("O_WRONLY", "O_RDWR", "O_CREAT")
# Where a program may write without leaving anything: devices and its own process.
NOWHERE = ("/dev/", "/proc/")


SCANNER = Scanner([Canary("text", "me", text=CANARY)])


def leaks(data: bytes | Path) -> list[str]:
    """The forms in which the marked text stands in data, a file or a folder."""
    scan = SCANNER.scan_tree(data) if isinstance(data, Path) else SCANNER.scan_bytes(data, "data")
    assert scan.incomplete == []
    return [finding.form for finding in scan.findings]


def can_cut_off() -> bool:
    if shutil.which("unshare") is None:
        return False
    tried = subprocess.run(["unshare", "-n", "true"], capture_output=True, check=False)
    return tried.returncode == 0


def can_trace(folder: Path) -> bool:
    if shutil.which("strace") is None:
        return False
    command = ["strace", "-f", "-o", str(folder / "probe"), "true"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Person:
    """A home with a release."""
    folder = tmp_path_factory.mktemp("offline")
    release = quick_release()
    person = Person.make(folder)
    assert person.run("bundle", "add", publish_release(release, folder / "published")) == 0
    return person


# One process for all commands: starting Python under strace is most of the time.
# torch imports dill where that is installed (`datasets` brings it), and dill has Python try the folder
# for temporary files with a file of four letters. Named beforehand it is not tried; writes there still show.
LIFE = """
import json, os, sys, tempfile
tempfile.tempdir = os.environ["TMPDIR"]
from client.cli import run_cli
for words in json.loads(sys.argv[1]):
    code = run_cli(words)
    if code: sys.exit(f"{words} ended with {code}")
"""


def live(
    person: Person, folder: Path, commands: list[list[str]]
) -> tuple[subprocess.CompletedProcess[bytes], str]:
    """Run commands cut off from the network and traced, with empty HOME, cache and TMPDIR."""
    elsewhere = {name: str(folder / name) for name in ("HOME", "TMPDIR", "XDG_CACHE_HOME")}
    for place in elsewhere.values():
        Path(place).mkdir(exist_ok=True)
    log = folder / "trace"
    calls = "trace=openat,open,creat,mkdir,mkdirat,rename,renameat,renameat2,link,linkat,socket"
    whole = json.dumps([[*person.options(), *words] for words in commands])
    command = ["strace", "-f", "--seccomp-bpf", "-s", "4096", "-e", calls, "-o", str(log)]
    command += [sys.executable, "-c", LIFE, whole]
    if can_cut_off():
        command = ["unshare", "-n", *command]
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "XDG_"))}
    kept["PYTHONPATH"] = str(Path(__file__).resolve().parent.parent)
    done = subprocess.run(
        command,
        input=f"what is {CANARY}\nand again {CANARY}\n".encode(),  # what `chat` is told
        capture_output=True,
        check=False,
        env={**kept, **elsewhere},
        cwd=folder,
    )
    return done, log.read_text(errors="replace")


def test_a_whole_life_offline_leaves_nothing_readable(ready: Person, tmp_path: Path) -> None:
    if not can_trace(tmp_path):
        pytest.skip("strace is not there or may not trace on this system")
    items = tuple(
        HistoryItem(i.id, {**i.fields, "description": f"{i.fields['description']} {CANARY}"})
        for i in small_users()[1][0].history[:16]
    )
    source, out = write_jsonl(tmp_path / "h.jsonl", items[:12]), tmp_path / "adapter"
    later, backup = write_jsonl(tmp_path / "later.jsonl", items), tmp_path / "me.age"
    backup_key = ["--backup-passphrase-file", str(ready.passphrase_file)]
    done, trace = live(
        ready,
        tmp_path,
        [
            ["adapt", str(source)],
            ["generate", "a film with roses"],
            ["chat", "--system", CANARY, "--temperature", "1"],
            ["inspect"],
            ["evaluate"],
            ["forget", "--yes", "--items", "2"],
            ["export", "--format", "peft", "--with-base", "--out", str(out)],
            ["update", str(later)],
            ["rollback"],
            ["export", "--format", "age-backup", "--out", str(backup), *backup_key],
            ["import", str(backup), "--replace", *backup_key],
            ["rebase"],
            ["passwd", "--new-passphrase-file", str(ready.passphrase_file)],
            ["lock"],
            ["bundle", "list"],
            ["bundle", "verify"],
            ["path"],
            ["status"],
            ["doctor"],
        ],
    )
    assert done.returncode == 0, done.stderr
    assert "openat" in trace
    assert "socket(AF_INET" not in trace
    for line in trace.splitlines():
        check_place(
            line,
            allowed=(ready.home, out, hidden(out), backup, *map(hidden, (backup, hidden(backup)))),
        )
    assert leaks(done.stdout + done.stderr) == []
    for name in ("HOME", "TMPDIR", "XDG_CACHE_HOME"):
        assert not [p for p in (tmp_path / name).rglob("*") if p.is_file()], name
    for place in (ready.home, out, backup):
        assert leaks(place) == [], place.name
    for path in (*ready.home.rglob("*"), *out.rglob("*"), backup):
        if path.is_file():
            assert path.stat().st_mode & 0o077 == 0, path.name
    assert leaks(source) == ["utf-8"] * 12, "the search works on what there is"


def hidden(path: Path) -> Path:
    """Beginning of the name under which something is written before it appears whole."""
    return path.with_name(f".{path.name}")


def check_place(line: str, *, allowed: tuple[Path, ...]) -> None:
    """Raise AssertionError for a call that succeeded in writing outside the allowed places."""
    if " = -1 " in line:
        return
    opened = OPENED.search(line)
    if opened is not None:
        if not any(flag in opened["flags"] for flag in WRITES):
            return
        if "O_TMPFILE" in opened["flags"]:  # a file without a name, which it gets by a link
            return
        path = opened["path"]
    else:
        if MADE.search(line) is None:
            return
        path = re.findall(r'"([^"]*)"', line)[-1]  # what is new
    if path.startswith(NOWHERE) or path.endswith(".pyc") or "__pycache__" in path:
        return
    inside = any(path.startswith(str(place)) for place in allowed)
    assert inside, f"wrote outside: {line}"


def test_planted_writes_are_found() -> None:
    """Control: what the check must catch, and what it must let pass."""
    home = (Path("/home/me/p"),)
    for line in (
        'openat(AT_FDCWD, "/tmp/x", O_WRONLY|O_CREAT, 0600) = 3',
        'mkdir("/root/.cache/huggingface", 0777) = 0',
        'rename("/tmp/a", "/tmp/b") = 0',
        'linkat(9, "7", AT_FDCWD, "/tmp/b", AT_SYMLINK_FOLLOW) = 0',
    ):
        with pytest.raises(AssertionError, match="wrote outside"):
            check_place(line, allowed=home)
    for line in (
        'openat(AT_FDCWD, "/etc/passwd", O_RDONLY|O_CLOEXEC) = 3',
        'openat(AT_FDCWD, "/tmp/x", O_WRONLY|O_CREAT, 0600) = -1 EACCES (Permission denied)',
        'openat(AT_FDCWD, "/home/me/p/vault/1", O_WRONLY|O_CREAT, 0600) = 3',
    ):
        check_place(line, allowed=home)
