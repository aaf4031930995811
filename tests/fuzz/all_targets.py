"""Every target by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from tests.fuzz.file_targets import AddressTarget, DataTarget, ProfileTarget, TaskTarget
from tests.fuzz.harness import Target
from tests.fuzz.history_targets import HistoryTarget, QuestionTarget
from tests.fuzz.private_targets import (
    BackupTarget,
    DocumentTarget,
    ImportTarget,
    PassphraseTarget,
    VaultTarget,
)
from tests.fuzz.release_targets import PublisherTarget, ReleaseTarget, TrustTarget

TARGETS: dict[str, Callable[[Path], Target]] = {
    kind.name: kind
    for kind in (
        VaultTarget,
        PassphraseTarget,
        BackupTarget,
        DocumentTarget,
        ImportTarget,
        TrustTarget,
        PublisherTarget,
        ReleaseTarget,
        HistoryTarget,
        QuestionTarget,
        TaskTarget,
        ProfileTarget,
        DataTarget,
        AddressTarget,
    )
}


def make_targets(folder: Path, names: Sequence[str] | None = None) -> list[Target]:
    """Targets with a working folder each."""
    made = []
    for name in names or TARGETS:
        place = folder / name
        place.mkdir(parents=True)
        made.append(TARGETS[name](place))
    return made
