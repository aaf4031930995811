"""One node of the federation, which plays a cohort of simulated devices, each with its own user.

The node keeps one copy of the bundle and one loaded release for all its devices, adapts the
devices that are not finished for this bundle, and predicts on each device. What a device makes
stays in that device's folder; the caller learns a status code. A device whose data is broken
fails alone: the rest of the cohort goes on. A real person's device takes no part in this: there,
`proper` adapts by the same functions of `client.person`. Source: docs/method.md 1.1 (stage 3 on the
device), docs/federation.md 6 (few actors, each with a cached base and a cohort a message).
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from client.node.device import DeviceFolder, Hosted, digest
from client.node.failures import describe
from client.node.pieces import PieceStore
from client.person.learner import user_seed
from client.person.stores import Binding, FolderStore
from proper_model.errors import (
    BaseModelError,
    ConfigError,
    DataError,
    MetricError,
    NotInstalledError,
    ProperError,
    StateError,
)
from proper_model.federation.protocol import FileTable, Status
from proper_model.federation.run_plan import RunPlan
from proper_model.federation.step_clock import TIMINGS_FILE, StepClock
from proper_model.progress import Progress
from proper_model.storage.files import make_private_folder, write_atomic

if TYPE_CHECKING:
    from client.node.host_work import Engine

# Errors that every user of the cohort would meet, or that are the same however it is divided:
# trying users one by one would not help.
COMMON_ERRORS = (ConfigError, BaseModelError, NotInstalledError, MetricError)
PROGRESS_EVERY_S = 0.5
WORK = "work"  # resumable training state, below the node's folder


@dataclass
class CohortHost:
    """Node `partition` of `partitions` of a plan; `engine` supplies what only others can do."""

    plan: RunPlan
    partition: int
    partitions: int
    engine: Engine
    failed: dict[str, str] = field(default_factory=dict)
    _reported_at: float = 0.0

    def __post_init__(self) -> None:
        self.folder = make_private_folder(self.plan.node_folder(self.partition))
        self.pieces = PieceStore(self.folder)
        self.clock = StepClock(self.folder / TIMINGS_FILE)
        self.devices = tuple(
            DeviceFolder(entry.device_id, entry.folder)
            for entry in self.plan.devices_of(self.partition, self.partitions)
        )

    # -- the bundle ----------------------------------------------------------------------------

    def missing(self, asked: Sequence[str]) -> list[str]:
        """Which of these pieces this node lacks. A node without devices needs none."""
        return self.pieces.missing(asked) if self.devices else []

    def store(self, shas: Sequence[str], data: Sequence[bytes]) -> None:
        """Keep pieces. Raises BundleIntegrityError if one is not what its hash says."""
        for sha, piece in zip(shas, data, strict=True):
            self.pieces.put(sha, piece)

    def install(self, bundle_id: str, table: FileTable) -> None:
        """Verify and install the bundle for all devices. Raises a BundleError child if refused."""
        if not self.devices:
            return
        with self.clock:
            self.clock.enter("install")
            installed = self.engine.install(
                self.folder, self.pieces.files(table), self._root(), bundle_id
            )
            self.pieces.adopt(table, installed)

    def _release(self, bundle_id: str) -> Any:
        self.clock.enter("load")
        return self.engine.release(self.folder, bundle_id)

    def _root(self) -> bytes:
        """The trust root all devices of this host pin; they share one copy of the bundle."""
        roots = {device.root_bytes() for device in self.devices}
        if len(roots) != 1:
            raise ConfigError(
                f"node {self.partition}: its devices pin {len(roots)} different trust roots, "
                "expected one"
            )
        return roots.pop()

    # -- the private round ---------------------------------------------------------------------

    def personalize(self, bundle_id: str) -> Status:
        """Fit and save the private state of every device that has none for this bundle yet."""
        todo: dict[tuple[str, ...], list[Hosted]] = {}
        hosted = self._hosted("personalize")
        for one in hosted:
            arms = tuple(
                arm for arm in self.plan.state_arms if not self._store(bundle_id, arm, one).exists()
            )
            if arms:
                todo.setdefault(arms, []).append(one)
        if todo:
            release = self._release(bundle_id)
            for arms, members in todo.items():
                adapt = partial(self._adapt, release, arms, bundle_id)
                self._in_parts("personalize", members, adapt)
        self._clear_work()
        return self._finish("personalize", hosted)

    def _adapt(
        self, release: Any, arms: tuple[str, ...], bundle_id: str, part: Sequence[Hosted]
    ) -> None:
        # Histories are part of the name: weights half trained on other items are never continued.
        members = [[one.device.device_id, self._trained_from(one)] for one in part]
        name = digest([bundle_id, *arms, *members])[:24]
        work = make_private_folder(self.folder / WORK) / f"{bundle_id[:16]}-{name}"
        try:
            states = self.engine.adapt(
                release,
                [one.user for one in part],
                arms=arms,
                bundle_id=bundle_id,
                seed=self.plan.seed,
                checkpoint=work,
                progress=self._progress("personalize"),
            )
            for one in part:
                for arm in arms:
                    # The history lies in `user.json` already; the binding's key names it.
                    state = states[arm, one.user.user_id].without_items()
                    self._store(bundle_id, arm, one).write(state)
        except Exception:
            # Halves go by other names, so nobody would come back to these private tensors. A kill
            # passes by here and leaves them for the next start.
            self._clear_work(work.name)
            raise
        self._clear_work(work.name)

    def _clear_work(self, name: str = "") -> None:
        """Remove resumable training state; after a whole round what killed starts left as well.

        That lies under names that nobody asks for again.
        """
        for path in (self.folder / WORK).glob(f"{name}*"):
            path.unlink(missing_ok=True)

    def _store(self, bundle_id: str, arm: str, one: Hosted) -> FolderStore:
        user_id = one.user.user_id
        seed = user_seed(self.plan.seed, user_id)
        binding = Binding(bundle_id, arm, user_id, seed, self._trained_from(one))
        return FolderStore(one.device.make_state_folder(), binding)

    def _trained_from(self, one: Hosted) -> str:
        return digest({"seed": self.plan.seed, "history": one.history_key})

    # -- evaluation ----------------------------------------------------------------------------

    def evaluate(self, bundle_id: str) -> Status:
        """Predict every query of every device, arm by arm; the rows stay on the devices."""
        hosted = self._hosted("evaluate")
        for arm in self.plan.node_arms:
            todo = [
                one
                for one in hosted
                if not one.device.has_predictions(arm, self._key(bundle_id, arm, one))
            ]
            if todo:
                release = self._release(bundle_id)
                self._in_parts("evaluate", todo, partial(self._predict, release, arm, bundle_id))
        self._remove_damaged(bundle_id, hosted)
        return self._finish("evaluate", hosted)

    def _remove_damaged(self, bundle_id: str, hosted: Sequence[Hosted]) -> None:
        """Remove states that begin as they should and cannot be read: the next round trains anew."""
        for one in hosted:
            if one.device.device_id not in self.failed:
                continue
            for arm in self.plan.state_arms:
                store = self._store(bundle_id, arm, one)
                try:
                    if store.exists():
                        store.read()
                except StateError:
                    store.remove()

    def _predict(self, release: Any, arm: str, bundle_id: str, part: Sequence[Hosted]) -> None:
        self.clock.enter(f"evaluate: {arm}")
        states = {}
        state_arm = self.plan.state_of(arm)
        if state_arm is not None:
            for one in part:
                states[one.user.user_id] = self._store(bundle_id, state_arm, one).read()
        rows: dict[str, list[Mapping[str, object]]] = {one.user.user_id: [] for one in part}
        for user_id, row in self.engine.predict(
            release,
            [one.user for one in part],
            arm,
            states,
            progress=self._progress("evaluate"),
        ):
            rows[user_id].append(row)
        for one in part:
            one.device.write_predictions(
                arm, rows[one.user.user_id], self._key(bundle_id, arm, one)
            )

    def _key(self, bundle_id: str, arm: str, one: Hosted) -> str:
        return digest(
            {
                "bundle": bundle_id,
                "arm": arm,
                "seed": self.plan.seed,
                "history": one.history_key if self.plan.state_of(arm) else "",
                "queries": one.queries_key,
            }
        )

    # -- a device that fails does not stop the others -------------------------------------------

    def _hosted(self, phase: str) -> list[Hosted]:
        """The devices whose data can be read; the others are noted as failed."""
        self.failed.clear()
        hosted: list[Hosted] = []
        seen: set[str] = set()
        for device in self.devices:
            try:
                device.check()
                user = self.engine.read_user(device, self.plan)
                if user.user_id in seen:
                    raise DataError(f"device {device.device_id}: another device has its user too")
            except Exception as error:  # noqa: BLE001 - broken data must not stop the others
                self._fail(phase, device, error)
                continue
            seen.add(user.user_id)
            hosted.append(Hosted(device, user))
        return hosted

    def _in_parts(
        self, phase: str, members: Sequence[Hosted], work: Callable[[Sequence[Hosted]], None]
    ) -> None:
        """Do `work` for all members; when it fails, for halves, down to the one that fails.

        That covers both a user whose data breaks training and a cohort too large for memory.
        """
        try:
            work(members)
        except COMMON_ERRORS:
            raise
        except Exception as error:  # noqa: BLE001 - whatever one user's data causes
            if len(members) == 1:
                self._fail(phase, members[0].device, error)
                return
            # Outside this block the error, and with it the failed attempt's memory, is released.
        else:
            return
        middle = len(members) // 2
        self._in_parts(phase, members[:middle], work)
        self._in_parts(phase, members[middle:], work)

    def _fail(self, phase: str, device: DeviceFolder, error: Exception) -> None:
        kind, message = describe(error)
        self.failed[device.device_id] = kind
        with contextlib.suppress(OSError):
            device.note_failure(phase, kind, message)

    def _finish(self, phase: str, hosted: Sequence[Hosted]) -> Status:
        self.clock.leave()
        for one in hosted:
            if one.device.device_id not in self.failed:
                one.device.clear_failure()
        done = len(self.devices) - len(self.failed)
        self.report(phase, done, len(self.devices))
        return Status.DEVICE_FAILED if self.failed else Status.OK

    # -- progress, counts only -----------------------------------------------------------------

    def _progress(self, phase: str) -> Progress:
        def report(label: str, done: int, total: int) -> None:
            self.clock.enter(f"{phase}: {label}")
            if time.monotonic() - self._reported_at >= PROGRESS_EVERY_S:
                self.report(f"{phase}: {label}", done, total)

        return report

    def report(self, phase: str, done: int, total: int) -> None:
        """Say how far this node is, for the launcher's bar on the same machine."""
        self._reported_at = time.monotonic()
        content = {"phase": phase, "done": done, "total": total}
        with contextlib.suppress(OSError):
            write_atomic(self.folder / "progress.json", json.dumps(content).encode())

    def note_failure(self, phase: str, error: BaseException) -> None:
        """Leave the reason of a refused request in the node's own folder."""
        kind, message = describe(error)
        row = {"phase": phase, "error": kind, "message": message}
        with contextlib.suppress(OSError, ProperError):
            write_atomic(self.folder / "failure.json", (json.dumps(row) + "\n").encode())
