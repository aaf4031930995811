"""The session of `proper serve`: one person's model, answering, routing, forgetting.

Other commands change what is stored meanwhile. Before each request it is looked whether they did, and
what was loaded is dropped then, before what is stored now is read: no request is answered by a state
that is stored no more, and no item that was forgotten stays in memory.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Generator, Mapping, Sequence
from contextlib import suppress
from typing import Literal

from client.person import adapting
from client.person.answering import Personal, Prompt, Wording, check_retrieve, wording_of
from client.person.learner import Learner
from client.person.load_for_training import choice_for, load_within
from client.person.state import PersonalState
from client.person.stores import VaultStore, stored
from client.person.workspace import Memory, Workspace
from client.serving.faults import RequestError
from client.serving.session import Ending, ForgetReport, ItemRow, Manner, Routing
from client.terminal.terminal_text import preview
from client.vault.opening import Vault, fingerprint, vault_exists
from proper_model.answering import Sampling, seeded
from proper_model.errors import (
    BaseModelError,
    BusyError,
    DataError,
    PassphraseError,
    ProperError,
    StorageError,
)
from proper_model.progress import Progress
from proper_model.tasks import Depth
from proper_model.text import ChatMessage

PREVIEW = 80  # characters of an item
CHANGED = "another proper command has changed what is stored since this server started"
AGAIN = "start proper serve again"
UNKNOWN = b"unknown"  # no fingerprint: what lies there could not be looked at


class ServedPerson:
    """One task of one person; implements `client.serving.session.Session`.

    Made, it has read the vault and loaded the release; raises as the commands do.

    Args:
        vault: open, None before any adaptation: then the population's model answers.
        name: of the task, None for the only one.
        retrieve: how many own items stand before a question; None: as the task was adapted.
    """

    def __init__(
        self,
        workspace: Workspace,
        vault: Vault | None,
        name: str | None,
        memory: Memory,
        *,
        retrieve: Depth | None = None,
    ) -> None:
        self._seen = fingerprint(workspace.home.vault)  # first: a change after it will be noticed
        state = None if vault is None else stored(VaultStore(vault))
        check_retrieve(state, retrieve)
        self._workspace, self._vault, self._memory = workspace, vault, memory
        self._bundle = workspace.bundle_of(state)
        self._release, choice = load_within(workspace, self._bundle, state, memory)
        self._base_weights = choice.base_weights
        self._name, self._retrieve = name, retrieve
        self._answers = ""  # the task that was answered last
        self._refused = ""  # why nothing is answered; empty: it is
        self._use(state)

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
    def stored(self) -> bool:
        return os.path.lexists(self._workspace.home.vault)

    @property
    def label_choices(self) -> tuple[str, ...]:
        return tuple(self._mine.task.labels or ())

    def refresh(self) -> None:
        folder = self._workspace.home.vault
        try:
            now = fingerprint(folder)
        except StorageError:
            now = UNKNOWN
        if now != self._seen or now == UNKNOWN:
            self._seen = now
            self._take_stored()
        if self._refused:
            raise BusyError(f"{CHANGED}; {self._refused}", hint=AGAIN)

    def _take_stored(self) -> None:
        """Use what is stored now. What was loaded is gone first, and stays so if that fails."""
        refused, self._refused = self._refused, "what is stored now cannot be loaded"
        vault, self._vault = self._vault, None
        self._use(None)
        try:
            vault = self._stored_vault(vault, known=vault is not None or bool(refused))
            state = None if vault is None else stored(VaultStore(vault))
            if state is not None and state.tasks:
                self._check_release(state)
            self._use(state)
        except (BusyError, PassphraseError):
            self._refused = "this server's key does not open it any more"
        except ProperError as error:
            self._use(None)
            self._refused += f" ({type(error).__name__})"  # a message may name a private path
        else:
            self._vault, self._refused = vault, ""

    def _stored_vault(self, vault: Vault | None, *, known: bool) -> Vault | None:
        """The vault that lies there now, None without one, and where its key was never known.

        Raises BusyError or PassphraseError if its key was `known` and is another one now.
        """
        if not self._workspace.has_vault:
            return None
        if vault is not None:
            with suppress(BusyError):
                return vault.reopened()
        found = self._workspace.open_unasked()  # a file or the keyring may hold the key of now
        if found is None and known:
            raise BusyError("another key opens the vault now")
        return found

    def _check_release(self, state: PersonalState) -> None:
        """Raise DataError for a state over another base than is loaded; two would rarely fit."""
        bundle = self._workspace.bundle_of(state)
        choice = choice_for(self._workspace, bundle, state, self._memory)
        if (bundle.bundle_id, choice.base_weights) != (self.bundle_id, self._base_weights):
            raise DataError("the adapter is over another release now")

    def wording(self, messages: Sequence[ChatMessage]) -> Wording:
        return wording_of(messages)

    def generate(
        self, messages: Sequence[ChatMessage], *, stage: str, manner: Manner
    ) -> Generator[str, None, Ending]:
        prompt = self._prompt(messages, stage)
        sampling = None
        if manner.temperature > 0:
            sampling = Sampling(manner.temperature, seeded(manner.seed), manner.top_p)
        ended = yield from self._mine.answer(
            prompt,
            max_tokens=manner.max_tokens,
            sampling=sampling,
            stop=manner.stop,
        )
        reason: Literal["stop", "length"] = "stop" if ended.done else "length"
        return Ending(reason, ended.tokens, len(prompt.tokens))

    def _prompt(self, messages: Sequence[ChatMessage], stage: str) -> Prompt:
        """A conversation as it is asked. Raises RequestError, which names the field, if it cannot be."""
        try:
            prompt = self._mine.prompt(messages, stage=stage)
        except BaseModelError as error:
            raise RequestError(400, f"messages: {error.message}", param="messages") from None
        tokens = len(prompt.tokens)
        if prompt.wording == "chat" and tokens >= self._mine.positions:
            raise RequestError(
                400,
                f"messages: {tokens} tokens, and this base reads {self._mine.positions}, its answer "
                "included; leave the oldest messages out",
                param="messages",
                code="context_length_exceeded",
            )
        return prompt

    def routing(self, prompt: str, *, stage: str) -> Routing:
        asked = self._mine.own_items(stage).ask(prompt)
        weights = self._mine.routing([asked], stage=stage)
        return Routing(
            tuple(site.path for site in self._mine.model.sites),
            tuple(tuple(float(w) for w in row) for row in weights),
        )

    def items(self) -> Sequence[ItemRow]:
        if self._state is None or self._task is None:
            return []
        return [
            ItemRow(number, item.id, item.date, preview(item.fields, PREVIEW))
            for number, item in enumerate(self._state.tasks[self._task].items, start=1)
        ]

    def forget(self, ids: Sequence[str] | None, *, progress: Progress) -> ForgetReport:
        if ids is None:
            return self._forget_everything()
        if self._vault is None or self._state is None or self._task is None:
            raise DataError("nothing private is stored here yet")
        known = {item.id for item in self._state.tasks[self._task].items}
        if not set(ids) <= known:
            raise DataError("an item to forget is not in the history", hint="load the list again")
        gone = len(set(ids))
        with self._workspace.home.working():
            self._check_unchanged(self._vault)
            self._vault.check_forgetting()  # before the minutes of training
            left = adapting.without(self._state, self._task, ids)
            memory_bytes = self._release.memory_bytes
            learner = Learner(self._release, memory_bytes=memory_bytes, progress=progress)
            trained = adapting.adapt(learner, left, adapting.histories_of(left), changed=self._task)
            self._replace(self._vault, trained, self._task, gone)
        kept = len(trained.tasks[self._task].items)
        return ForgetReport(gone, kept, ("Exports, backups and copies of the folder stay.",))

    def _check_unchanged(self, vault: Vault) -> None:
        """Raise BusyError if something else is stored than was loaded: training would be in vain.

        What is stored is loaded then, so that the list can be had again.
        """
        self.refresh()
        if self._vault is not vault:
            raise BusyError(
                CHANGED, hint="nothing was forgotten; load the list again and repeat it"
            )
        vault.settle()

    def _replace(self, vault: Vault, state: PersonalState, name: str, gone: int) -> None:
        """Store a state so that nothing older stays; whatever fails, go on with what is stored."""
        store = VaultStore(vault)
        try:
            store.write_without(state, task=name, items=gone)
        except ProperError as error:
            self._seen = fingerprint(self._workspace.home.vault)
            now = stored(store)
            self._use(now)
            if now is not None and len(now.events) > len(state.events):
                raise DataError(
                    "the items are forgotten, but a stored state that knows them could not be "
                    "removed",
                    hint="the next adapt, update or forget removes it",
                ) from error
            raise
        self._seen = fingerprint(self._workspace.home.vault)
        self._use(stored(store))

    def _use(self, state: PersonalState | None) -> None:
        """Answer by a state, None: as for a person without one. Nothing of the one before is kept."""
        name, depth = None, None
        if state is not None and state.tasks:
            # Whoever named none stays with the one task there was when another one comes.
            known = self._answers in state.tasks
            name = self._answers if known else state.task_named(self._name)[0]
            depth = self._retrieve
            self._answers = name
        self._mine = Personal.of(self._release, state, name, retrieve=depth)
        self._state, self._task = state, name
        gc.collect()  # a model is a ring of objects, and the one before holds the adapter

    def _forget_everything(self) -> ForgetReport:
        from client.vault.opening import destroy_vault

        home = self._workspace.home
        if not self.stored:
            raise DataError("nothing private is stored here yet")
        tasks = self._state.tasks.values() if self._state is not None else ()
        forgotten = sum(len(task.items) for task in tasks)
        try:
            with home.working():
                remarks = destroy_vault(home.vault)
        finally:
            if not vault_exists(home.vault):  # without its keys the rest is lost already
                self._vault, self._seen, self._refused = None, None, ""
                self._use(None)
        return ForgetReport(
            forgotten, 0, ("Everything private is removed, keys included.", *remarks)
        )
