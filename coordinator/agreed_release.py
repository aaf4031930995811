"""A run's release and its people's consents: checked before training, said in the release, recorded after.

Between preparing a run and signing its release hours pass, in which somebody may withdraw. So consents are
asked for three times: who is written into the run's folder (`simulations`), before training, and
before the release is signed.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from coordinator.consents import (
    NOT_RECORDED,
    NOTE,
    Consents,
    Training,
    changing,
    content_of,
    read_consents,
)
from coordinator.publish import PublishedBundle
from proper_model.bundle.limits import DEFAULT_LIMITS
from proper_model.bundle.manifest import MANIFEST_NAME, parse_manifest
from proper_model.bundle.signed_time import format_time
from proper_model.federation.run_plan import RunPlan
from proper_model.release.contents import Release
from proper_model.storage.files import read_bounded


@dataclass(frozen=True)
class AgreedRelease:
    """What a run's plan says about consents, and whose data train it, by their ids."""

    plan: RunPlan
    people: Collection[str]

    def check(self) -> Consents | None:
        """Raise ConfigError if somebody does not agree (any more); None where nothing is recorded."""
        if self.plan.consents is None:
            return None
        found = read_consents(self.plan.consents)
        found.check_standing(self.people, self.plan.release_name, "this run's release")
        return found

    def said_in(self, release: Release) -> Release:
        """The release with numbers of consents in its notes. Raises as `check`."""
        found, said = self.check(), NOT_RECORDED
        if found is not None:
            said = found.counts(self.people, left_out=self.plan.left_out, run=self.plan.out)
        return replace(release, notes={**release.notes, NOTE: dict(said)})

    def record(self, published: PublishedBundle) -> None:
        """Keep with the consents who is in the signed release, and where copies lie."""
        if self.plan.consents is None:
            return
        manifest = parse_manifest(
            read_bounded(published.path / MANIFEST_NAME, DEFAULT_LIMITS.manifest_bytes),
            DEFAULT_LIMITS,
        )
        training = Training(
            content=content_of({name: entry.sha256 for name, entry in manifest.files.items()}),
            signed=format_time(datetime.now(UTC)),
            release=self.plan.release_name,
            people=sorted(self.people),
            run=str(self.plan.out),
            cache=str(self.plan.cache),
        )
        with changing(self.plan.consents) as change:
            change.after = change.after.with_training(training)
