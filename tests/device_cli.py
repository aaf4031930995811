"""A person with a home, a passphrase and a signed release, for tests of the `proper` program."""

from __future__ import annotations

import csv
import dataclasses
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from client.cli import run_cli
from client.person import cost
from client.person.stores import VaultStore
from client.vault.opening import Vault, open_vault
from client.vault.secrets import Passphrase
from coordinator.publish import publish
from proper_model.bundle.trusted_root import TrustedRoot
from proper_model.release.contents import Release, release_to_files
from proper_model.tasks.records import HistoryItem
from tests.bundle_samples import fixed_key
from tests.releases import small_release

PASSPHRASE = "correct horse battery staple"
CANARY = "zqxcanaryzq"


def quick_release() -> Release:
    """A release whose private training is short: what is tested is the program, not the fit."""
    release = small_release("device")
    user = dataclasses.replace(
        release.settings.user, epochs=2, embedding_epochs=2, learning_rates=(1e-2,)
    )
    return dataclasses.replace(release, settings=dataclasses.replace(release.settings, user=user))


def publish_release(release: Release, folder: Path) -> Path:
    """The next version of a release, signed by a fixed key, in `folder` with its root.json."""
    key = fixed_key(1)
    now = datetime.now(UTC)
    publish(release_to_files(release), folder, [key], created=now, valid_for_days=90)
    root = folder / "root.json"
    root.write_bytes(TrustedRoot.of([key]).to_bytes())
    return folder


@dataclass
class Person:
    """One home; `run` is the program with this person's options."""

    home: Path
    passphrase_file: Path

    @classmethod
    def make(cls, folder: Path, passphrase: str = PASSPHRASE) -> Person:
        folder.mkdir(parents=True, exist_ok=True)
        secret = folder / "passphrase"
        secret.write_text(passphrase + "\n")
        secret.chmod(0o600)
        return cls(folder / "home", secret)

    def options(self) -> list[str]:
        return ["--home", str(self.home), "--passphrase-file", str(self.passphrase_file)]

    def run(self, *words: str | Path) -> int:
        """The exit code. One pass tells the speed: how well it is told is not tested here."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(cost, "PROBE_S", 0.0)
            return run_cli([*self.options(), *map(str, words)])

    def vault(self) -> Vault:
        """The open vault of a person whose passphrase is `PASSPHRASE`."""
        return open_vault(self.home / "vault", Passphrase(PASSPHRASE))

    def items(self) -> tuple[HistoryItem, ...]:
        """What is stored of the release's task."""
        return VaultStore(self.vault()).read().tasks["synth_tag"].items


def write_jsonl(path: Path, items: tuple[HistoryItem, ...]) -> Path:
    rows = [json.dumps({"id": item.id, **item.fields}) for item in items]
    path.write_text("\n".join(rows) + "\n")
    return path


def write_csv(path: Path, items: tuple[HistoryItem, ...]) -> Path:
    names = list(items[0].fields)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", *names])
        for item in items:
            writer.writerow([item.id, *(item.fields[name] for name in names)])
    return path
