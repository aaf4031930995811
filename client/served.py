"""The session behind `proper serve`: one person's model, answering, routing, forgetting."""

from __future__ import annotations

import dataclasses
from collections.abc import Generator, Mapping, Sequence
from typing import TYPE_CHECKING

from client import personal
from client.answering import Personal
from client.bundle_store import InstalledBundle
from client.learning import Learner
from client.personal_state import PersonalState
from client.serving.session import Ending, ForgetReport, ItemRow, Progress, Routing
from client.vault import Vault
from client.workspace import Workspace, write_state
from proper_model.artifact import Release
from proper_model.errors import ConfigError, DataError
from proper_model.records import counted
from proper_model.tasks import Example

if TYPE_CHECKING:
    from client.commands.work import Memory

PREVIEW = 80  # characters of an item


class ServedPerson:
    """One task of one person; implements `client.serving.session.Session`.

    Args:
        vault: open, None before any adaptation: then the population's model answers.
    """

    def __init__(
        self,
        workspace: Workspace,
        vault: Vault | None,
        release: Release,
        bundle: InstalledBundle,
        state: PersonalState | None,
        name: str | None,
    ) -> None:
        self._workspace, self._vault = workspace, vault
        self._release, self._bundle = release, bundle
        self._state = state
        self._name = None if state is None or not state.tasks else state.task_named(name)[0]
        self._mine = Personal.of(release, state, self._name)

    @classmethod
    def load(
        cls,
        workspace: Workspace,
        vault: Vault | None,
        name: str | None,
        memory: Memory | None = None,
    ) -> ServedPerson:
        """Read the vault and load the release. Raises as the commands do."""
        from client.commands.work import Memory, load_within, stored_state

        state = None if vault is None else stored_state(vault)
        bundle = workspace.bundle_of(state)
        release, _ = load_within(workspace, bundle, state, memory or Memory())
        return cls(workspace, vault, release, bundle, state, name)

    @property
    def stages(self) -> tuple[str, ...]:
        return self._mine.stages

    @property
    def model_names(self) -> Mapping[str, str]:
        """The highest stage is `proper`, whatever it is."""
        highest = self.stages[-1]
        return {"proper": highest} | {f"proper-stage{stage}": stage for stage in self.stages}

    @property
    def task(self) -> str:
        return self._mine.task.name

    @property
    def bundle_id(self) -> str:
        return self._bundle.bundle_id

    @property
    def adapted(self) -> bool:
        return "3" in self.stages

    @property
    def label_choices(self) -> tuple[str, ...]:
        return tuple(self._mine.task.labels or ())

    def generate(
        self, prompt: str, *, stage: str, max_tokens: int | None, task: str | None = None
    ) -> Generator[str, None, Ending]:
        if task is not None and task != self.task:
            raise ConfigError(f"this server answers task {self.task} only")
        ended = yield from self._mine.generate(prompt, stage=stage, max_tokens=max_tokens)
        return Ending("stop" if ended.done else "length", ended.tokens)

    def count_tokens(self, text: str) -> int:
        return len(self._mine.encoder.prompt(self._mine.prompt(text)))

    def routing(self, prompt: str, *, stage: str) -> Routing:
        asked = Example("question", self._mine.prompt(prompt), "")
        weights = self._mine.routing([asked], stage=stage)
        return Routing(
            tuple(site.path for site in self._mine.model.sites),
            tuple(tuple(float(w) for w in row) for row in weights),
        )

    def items(self) -> Sequence[ItemRow]:
        if self._state is None or self._name is None:
            return []
        return [
            ItemRow(number, item.id, item.date, _preview(item.fields))
            for number, item in enumerate(self._state.tasks[self._name].items, start=1)
        ]

    def forget(self, ids: Sequence[str] | None, *, progress: Progress) -> ForgetReport:
        if self._vault is None or self._state is None or self._name is None:
            raise DataError("nothing private is stored here yet")
        if ids is None:
            return self._forget_everything()
        known = {item.id for item in self._state.tasks[self._name].items}
        if not set(ids) <= known:
            raise DataError("an item to forget is not in the history", hint="load the list again")
        with self._workspace.home.working():
            left = personal.without(self._state, self._name, ids)
            release = self._release
            learner = Learner(release, memory_bytes=release.memory_bytes, progress=progress)
            trained = personal.adapt(learner, left, personal.histories_of(left))
            trained = dataclasses.replace(trained, base_weights=release.chosen_weights)
            write_state(self._vault, trained.noted("forget", self._name, len(set(ids))))
            self._vault.drop_previous()
        self._state = trained.noted("forget", self._name, len(set(ids)))
        self._mine = Personal.of(self._release, self._state, self._name)
        kept = len(trained.tasks[self._name].items)
        return ForgetReport(
            len(set(ids)), kept, ("Exports, backups and copies of the folder stay.",)
        )

    def _forget_everything(self) -> ForgetReport:
        from client.vault import destroy_vault

        assert self._state is not None
        forgotten = sum(len(task.items) for task in self._state.tasks.values())
        with self._workspace.home.working():
            remarks = destroy_vault(self._workspace.home.vault)
        self._vault = self._state = self._name = None
        self._mine = Personal.of(self._release, None, None)
        told = f"{counted(forgotten, 'item')} and all keys are removed"
        return ForgetReport(forgotten, 0, (told, *remarks))

    def close(self) -> None:
        """Nothing to let go: the vault is closed after every write."""


def _preview(fields: Mapping[str, str]) -> str:
    text = " | ".join(" ".join(value.split()) for value in fields.values())
    return text[:PREVIEW]
