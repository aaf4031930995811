"""What a node host does with users and models, in one place: read, install, load, adapt, predict.

Everything heavy (torch, transformers) is imported when it is first needed, so a node that only
answers "I have these pieces" starts quickly. The loaded release is kept between messages: Flower's
simulation runs many nodes in one process, and loading a base model costs more than a round.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from client.node.device import DeviceFolder
from client.releases.loading import ReleaseMemory
from proper_model.errors import BundleForeignError, DataError, NotInstalledError
from proper_model.federation.run_plan import RunPlan
from proper_model.progress import Progress
from proper_model.tasks import User

if TYPE_CHECKING:
    from client.person.state import PersonalState
    from proper_model.release.contents import Release

# Flower keeps no object of ours from one message to the next, and nodes of one process share a base.
RELEASES = ReleaseMemory()


@dataclass(frozen=True)
class Engine:
    """What a node can do with one machine's threads and files.

    `base` is where this machine keeps a base that releases refer to, a folder or a hub id; None
    means the local hub cache, under the name the release gives.
    """

    threads: int
    base: str | None = None
    memory_bytes: int | None = None

    def read_user(self, device: DeviceFolder, plan: RunPlan) -> User:
        """The device's one user. Raises DataError naming file and field."""
        from proper_model.data import user_from_json
        from proper_model.storage.documents import DocumentError, parse_json
        from proper_model.tasks import task_from_toml

        task = task_from_toml(plan.task_toml, template=plan.template, where="plan: task_toml")
        where = f"device {device.device_id}: user.json"
        try:
            record = parse_json(device.user_bytes())
        except DocumentError as error:
            raise DataError(f"{where}: {error}") from None
        if isinstance(record, list):
            if len(record) != 1:
                raise DataError(f"{where}: holds {len(record)} users, expected exactly one")
            record = record[0]
        return user_from_json(record, task, where=where)

    def install(
        self, folder: Path, files: Mapping[str, bytes], root: bytes, bundle_id: str
    ) -> dict[str, Path]:
        """Verify and install; where each file now stands. Raises a BundleError child."""
        from client.releases.install import install
        from proper_model.bundle.trusted_root import TrustedRoot

        bundle = install(folder, files, TrustedRoot.from_bytes(root)).bundle
        if bundle.bundle_id != bundle_id:
            raise BundleForeignError("the bundle that arrived is not the one that was announced")
        return {name: bundle.path / name for name in files}

    def release(self, folder: Path, bundle_id: str | None = None) -> Release:
        """The installed release, loaded. Raises NotInstalledError if it is not `bundle_id`."""
        from client.releases.store import installed
        from proper_model.engine import manage_freed_memory

        bundle = installed(folder)
        if bundle is None or bundle_id not in (None, bundle.bundle_id):
            raise NotInstalledError("the bundle of this round is not installed on this node")
        manage_freed_memory(self.memory_bytes)
        return RELEASES.load(
            bundle, self.base, threads=self.threads, memory_bytes=self.memory_bytes
        )

    def adapt(
        self,
        release: Release,
        users: Sequence[User],
        *,
        arms: Sequence[str],
        bundle_id: str,
        seed: int,
        checkpoint: Path,
        progress: Progress,
    ) -> Mapping[tuple[str, str], PersonalState]:
        """One private state for each (arm, user id)."""
        from client.person.adapting import adapt_users

        return adapt_users(
            release,
            users,
            arms=arms,
            bundle_id=bundle_id,
            seed=seed,
            checkpoint=checkpoint,
            memory_bytes=self.memory_bytes,
            progress=progress,
        )

    def predict(
        self,
        release: Release,
        users: Sequence[User],
        arm: str,
        states: Mapping[str, PersonalState],
        *,
        progress: Progress,
    ) -> Iterator[tuple[str, dict[str, object]]]:
        """(user id, row of the predictions file) for every query."""
        from client.person.arms import predict

        for prediction in predict(
            release, users, arm, states, memory_bytes=self.memory_bytes, progress=progress
        ):
            yield prediction.user_id, dataclasses.asdict(prediction)
