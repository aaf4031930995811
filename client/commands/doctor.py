"""`proper doctor`: what may stand in the way on this machine, each finding a line to act on.

Nothing is opened that needs a key, and nothing private is told: the list may be sent along with a
question.
"""

from __future__ import annotations

import os
import shutil
import stat
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import typer

from client.commands import options as o
from client.home import Home
from client.terminal.console import print_table
from client.terminal.document import gives
from client.terminal.session import Session
from client.terminal.tables import Table
from proper_model.errors import ProperError, UnfitError

LEAST_FREE_BYTES = 256 << 20
PACKAGES = ("torch", "transformers", "cryptography", "safetensors")
EXTRAS = {
    "bitsandbytes": "a base in 8 or 4 bits",
    "keyring": "the vault's key in the desktop's keyring",
    "pyrage": "backups",
}

SIGNS = {True: "ok", False: "mend", None: ""}


@dataclass(frozen=True)
class Finding:
    """`ok` None: neither good nor bad, only told."""

    name: str
    ok: bool | None
    told: str


@gives("doctor")
def doctor(context: typer.Context, as_json: o.AsJson = False) -> dict[str, Any]:
    """Check software, folder, release, vault and machine. Needs no key, tells nothing private."""
    session = context.ensure_object(Session)
    found = [*_settings(session), *examine(o.home(context))]
    session.found = {"findings": [asdict(one) for one in found]}
    if not as_json:
        rows = tuple((SIGNS[one.ok], one.name, one.told) for one in found)
        print_table(Table("proper doctor", ("", "what", "found"), rows, labels=3))
    broken = [one.name for one in found if one.ok is False]
    if broken:
        raise UnfitError(f"to be mended: {', '.join(broken)}", hint="the table says what was found")
    return dict(session.found)


def _settings(session: Session) -> Iterator[Finding]:
    """The file of settings, and what variables say."""
    if session.fault is not None:
        told = "; ".join(filter(None, (session.fault.message, session.fault.hint)))
        # A path may hold the person's name.
        told = told.replace(str(session.settings_file), "the file of settings")
        yield Finding("settings", ok=False, told=told)
        return
    there = session.settings_file.exists()
    yield Finding("settings", ok=True if there else None, told="read" if there else "no file")


def examine(home: Home) -> list[Finding]:
    """All findings, in order. A check that fails unexpectedly is a finding too."""
    found: list[Finding] = []
    for check in (_software, _folder, _root, _release, _vault, _machine):
        name = check.__name__.strip("_")
        try:
            found += check(home)
        except ProperError as error:
            told = f"{error.message}; {error.hint}" if error.hint else error.message
            found.append(Finding(name, ok=False, told=told))
        except OSError as error:
            found.append(Finding(name, ok=False, told=os.strerror(error.errno or 0)))
    return found


def _software(_: Home) -> Iterator[Finding]:
    python = ".".join(map(str, sys.version_info[:3]))
    yield Finding("python", sys.version_info >= (3, 11), python)
    for name in PACKAGES:
        try:
            yield Finding(name, ok=True, told=version(name))
        except PackageNotFoundError:
            yield Finding(name, ok=False, told=f"missing: pip install {name}")
    for name, purpose in EXTRAS.items():
        there = find_spec(name) is not None
        yield Finding(name, ok=None, told="there" if there else f"not there; for {purpose}")


def _folder(home: Home) -> Iterator[Finding]:
    place = home.path
    if not place.exists():
        yield Finding("folder", ok=None, told="not made yet")
        return
    mode = stat.S_IMODE(place.lstat().st_mode)
    closed = not mode & 0o077
    told = "closed to others" if closed else f"mode {mode:o}: chmod 700 it"
    yield Finding("folder", closed, told)
    writable = os.access(place, os.W_OK)
    yield Finding("writable", writable, "yes" if writable else "no")
    free = shutil.disk_usage(place).free
    yield Finding("free disk", free >= LEAST_FREE_BYTES, f"{free >> 20} MiB")


def _root(home: Home) -> Iterator[Finding]:
    """Whom this device trusts, and for how long."""
    from client.releases.pinned_root import load_root
    from proper_model.bundle.signed_time import format_time

    if not home.root_file.exists():
        return
    root = load_root(home.root_file)
    if root.is_own:
        yield Finding(
            "root", ok=True, told="your own, of proper start; a publisher's may replace it"
        )
        return
    if root.expires is None:
        told = f"version {root.version}, of the old form: its release key alone can replace it"
        yield Finding("root", ok=None, told=f"{told}; the publisher can move it to one with roles")
        return
    root.check_current(datetime.now(UTC))
    told = f"version {root.version}, until {format_time(root.expires)}"
    yield Finding("root", ok=True, told=told)


def _release(home: Home) -> Iterator[Finding]:
    from client.releases.store import installed
    from client.releases.verify import verify_bundle

    bundle = installed(home.path)
    if bundle is None:
        yield Finding(
            "release", ok=None, told="none: proper bundle add PATH_OR_URL, or proper start"
        )
        return
    verified = verify_bundle(home, None)
    told = f"release {verified.manifest.version}, {len(verified.manifest.files)} files as signed"
    yield Finding("release", ok=True, told=told)
    for warning in verified.warnings:
        yield Finding("release", ok=None, told=warning)


def _vault(home: Home) -> Iterator[Finding]:
    from client.vault.damage import UNFINISHED, look_at
    from client.vault.opening import WITHOUT_KEYS, WITHOUT_KEYS_HINT, orphaned, vault_exists

    if orphaned(home.vault):
        yield Finding("vault", ok=False, told=f"{WITHOUT_KEYS}; {WITHOUT_KEYS_HINT}")
        return
    if not vault_exists(home.vault):
        yield Finding("vault", ok=None, told="none yet: proper adapt HISTORY makes it")
        return
    shown = look_at(home)
    kinds = sorted({kind for _, kind in shown.slots})
    yield Finding("vault", ok=True, told="opens with " + ", ".join(kinds))
    for problem in shown.damaged:
        yield Finding("vault", ok=False, told=problem)
    if shown.unfinished:
        yield Finding("vault", ok=None, told=UNFINISHED)
    if shown.leftovers:
        told = f"{shown.leftovers} half written, by a command at work or a killed one; the next removes those"
        yield Finding("left files", ok=None, told=told)
    if shown.working:
        told = (
            f"{shown.working} of interrupted training; --resume goes on, any other change ends it"
        )
        yield Finding("checkpoints", ok=None, told=told)


def _machine(_: Home) -> Iterator[Finding]:
    from proper_model.federation.machine import total_memory_bytes

    yield Finding("memory", ok=None, told=f"{total_memory_bytes() / 2**30:.1f} GiB")
    yield Finding("cores", ok=None, told=str(os.cpu_count() or 1))
    import torch

    gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "none"
    yield Finding("accelerator", ok=None, told=gpu)
    swaps = Path("/proc/swaps")
    if swaps.exists() and len(swaps.read_text().splitlines()) > 1:
        told = "on: what is in memory may reach the disk; encrypt swap in the system's settings"
        yield Finding("swap", ok=None, told=told)
