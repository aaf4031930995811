"""An open vault: read and write the private state, change what opens it.

A change is complete with one atomic write. What follows (removing old files, the keyring) may fail
without harm, and is then told in `warnings`. docs/vault-format.md 5 and 6.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TypeVar

from client.vault import keyring_store
from client.vault.contents import (
    Content,
    Contents,
    list_generations,
    remove_generations,
    remove_leftovers,
)
from client.vault.fields import hex_text
from client.vault.key_derivation import KEY_BYTES, number_from
from client.vault.key_slots import MAX_SLOTS, KeySet, Slot, forget_slot
from client.vault.keyring_store import KeyringError
from client.vault.keys_document import Keys
from client.vault.keys_file import KeysFile
from client.vault.sealing import BUNDLE_ID_BYTES, KEY_ID_BYTES
from client.vault.secrets import Passphrase, Secret
from client.vault.snapshot import Warn, consistent, contents_of
from client.vault.working_files import Sealer, remove_stale_working, remove_working
from proper_model.errors import (
    BusyError,
    ProperError,
    StorageError,
    VaultError,
    VaultForeignError,
)

Result = TypeVar("Result")


class Vault:
    """An open vault. `warnings` collects sentences for the person.

    Reading is safe beside another process that writes; a writer holds `Home.working()`.
    """

    def __init__(self, file: KeysFile) -> None:
        self.folder = file.folder
        self.warnings: list[str] = []
        self._tell: Callable[[str], None] | None = None
        self._file = file
        self._highest = self.newest

    def tell_by(self, tell: Callable[[str], None]) -> None:
        """Call `tell` with every warning so far, and with each later one at once."""
        self._tell = tell
        for warning in self.warnings:
            tell(warning)

    def reopened(self) -> Vault:
        """The vault as it lies there now, opened by the same secret, also under another master key.

        Raises BusyError if the secret opens it no longer, or another vault lies there; else as
        `open_vault`.
        """
        now = Vault(self._file.reopened())
        now._tell = self._tell
        return now

    @property
    def vault_id(self) -> str:
        return self._file.keys.vault_id

    def slot_kinds(self) -> list[tuple[str, str]]:
        """(slot id, kind) of every slot."""
        return [(slot.id, slot.kind) for slot in self._file.keys.current.slots]

    def read(self, *, bundle_id: str | None = None) -> Content | None:
        """The newest whole generation, None if nothing has been written yet.

        It is one that was current at some moment of this call, whatever others write meanwhile.

        Raises:
            VaultForeignError: it belongs to another bundle than `bundle_id`, or another vault.
            VaultError: none is whole, or an older copy was put back.
            StorageError: a file cannot be read, is a link, or others may read it.
            BusyError: another process removed the vault, or changed what opens it.
        """
        content = consistent(self._file, self._find, self._warn)
        if content is not None and bundle_id not in (None, content.bundle_id):
            raise VaultForeignError(
                f"the private state belongs to bundle {content.bundle_id[:16]}, "
                f"expected bundle {(bundle_id or '')[:16]}",
                hint="use that bundle, or adapt again with the new one; the old state is kept",
            )
        return content

    def read_previous(self) -> Content | None:
        """The whole generation before the one that `read` gives, None if there is none.

        There is none either where something was forgotten, whatever files lie there. Raises as
        `read`.
        """
        newest = self.read()
        if newest is None or newest.alone:
            return None

        def look(contents: Contents, warn: Warn) -> Content | None:
            previous = contents.find(warn, before=newest.generation)
            if previous is not None:
                self._check_replay(previous.generation, warn)
            return previous

        return consistent(self._file, look, self._warn)

    def write(self, payload: bytes, *, bundle_id: str, alone: bool = False) -> int:
        """Make `payload` the newest generation and return its number; the one before is kept.

        Args:
            alone: no earlier generation may be read again. The new state gets a new master key,
                under which no copy of an earlier generation opens; then those are removed, and
                files of work in progress. The next change completes an interrupted removal.

        Raises:
            StorageError: it could not be written; the vault holds the old state, or, if only the
                folder could not be flushed, the new one.
            BusyError: another program changed the vault since it was opened.
            VaultError: the payload is larger than 4 GiB; with `alone`, see `check_forgetting`.
        """
        hex_text(bundle_id, BUNDLE_ID_BYTES, where="bundle id")
        self.settle()
        content = Content(payload, bundle_id, 0, alone)
        if alone:
            made = self._add_alone(content)
            self._drop_before(made)
            self._finish_write(made, made)
        else:
            made = self._add(self._contents(), content)
            self._finish_write(made, self._afterwards(self._contents().keep_two))
        return made

    def check_forgetting(self) -> None:
        """Whether `write(alone=True)` could make a new master key; nothing is changed.

        Raises VaultError for a slot of an earlier version, if another secret than the one that
        opened the vault opens it.
        """
        self._file.carried_slots("0" * 2 * KEY_ID_BYTES, bytes(KEY_BYTES))

    def _add_alone(self, content: Content) -> int:
        """Write this content as the next generation, under a new master key that the slots hold.

        Killed before the last step, the old state is there, and the next change removes the new
        files; after an error they are removed at once.
        """
        file = self._file
        key, key_id = file.random(KEY_BYTES), file.random(KEY_ID_BYTES).hex()
        pending = KeySet(key_id, file.carried_slots(key_id, key))
        try:
            file.save_next(pending, key)
            made = self._add(self._contents_under(pending, key), content)
            file.save(Keys(self.vault_id, pending), key)
        except (StorageError, VaultError):
            if file.keys.next is not None:
                self._afterwards(self._undo)
            raise
        return made

    def roll_back(self) -> int:
        """Write the previous state again, as a new generation, and return its number.

        Raises VaultError if there is no previous state; else as `read` and `write`.
        """
        previous = self.read_previous()
        if previous is None:
            raise VaultError("the vault holds no earlier state", hint="there is nothing to undo")
        return self.write(previous.payload, bundle_id=previous.bundle_id)

    def finish_interrupted(self) -> None:
        """Do or undo the rest of what was killed: forgetting, a new master key, files half written.

        Raises as `write`.
        """
        if self._contents().forgotten() is not None:
            self._warn("an interrupted forgetting is completed: older files are removed now")
        self.settle()
        self._file.renew_slot()
        remove_leftovers(self.folder)
        remove_stale_working(self.folder, self.newest)

    @property
    def newest(self) -> int:
        """The highest number of a generation that lies there, 0 without one."""
        return max(list_generations(self.folder), default=0)

    def sealer(self, purpose: str) -> Sealer:
        """What encrypts working files of this purpose under the present master key."""
        return Sealer(purpose, self._file.key, self._file.random)

    def number(self, purpose: str) -> int:
        """A random number below 2^62 that is this vault's own until its master key changes."""
        return number_from(self._file.key, purpose)

    def add_slot(self, secret: Secret) -> str:
        """Let another secret open the vault; returns the slot's id.

        Raises as `write`, and what making the slot raises; nothing was changed then.
        """
        self.settle()
        current = self._file.keys.current
        if len(current.slots) >= MAX_SLOTS:
            raise VaultError(f"the vault has {MAX_SLOTS} key slots, which is the most it may have")
        made = self._file.make_slots([secret], current.key_id, self._file.key)
        self._file.save_slots(current.slots + made, new=made)
        if made[0].kind == "keyring":
            self._note(*(self._afterwards(self._contents().whole) or (0, None)))
        return made[0].id

    def remove_slot(self, slot_id: str) -> None:
        """Let a secret no longer open the vault; copies of the vault made before still open.

        Raises VaultError if there is no such slot or it is the last one; else as `write`.
        """
        self.settle()
        slots = self._file.keys.current.slots
        gone = [slot for slot in slots if slot.id == slot_id]
        if not gone:
            raise VaultError("the vault has no such key slot", hint="`proper status` lists them")
        if len(slots) == 1:
            raise VaultError(
                "this is the only key slot; without it nothing could open the vault",
                hint="add another one first",
            )
        self._file.save_slots(tuple(slot for slot in slots if slot.id != slot_id))
        self._forget(gone)

    def change_passphrase(self, new: Passphrase) -> None:
        """Replace the passphrase that opened the vault, or the only one. No generation is touched.

        Raises VaultError if it is not clear which one; else as `add_slot`.
        """
        self.settle()
        slots = self._file.keys.current.slots
        having = [slot for slot in slots if slot.kind == "passphrase"]
        old = [slot for slot in having if slot.id == self._file.slot_id] or having
        if len(old) != 1:
            raise VaultError(
                f"the vault has {len(old)} passphrases; expected one to replace",
                hint="open the vault with the passphrase that is to be replaced",
            )
        current = self._file.keys.current
        (made,) = self._file.make_slots([new], current.key_id, self._file.key, old[0].id)
        self._file.save_slots(tuple(made if slot is old[0] else slot for slot in slots))
        if old[0].id == self._file.slot_id:
            self._file.secret = new

    def rotate(self, secrets: Sequence[Secret]) -> None:
        """Put everything under a new master key that these secrets open, and no other ones.

        For after a secret was stolen. Killed at any moment, the vault opens by the old or the new
        secrets: with old ones the next change undoes the rotation, with new ones it completes it.

        Raises as `add_slot`.
        """
        self.settle()
        self.read()
        file = self._file
        key, key_id = file.random(KEY_BYTES), file.random(KEY_ID_BYTES).hex()
        made = file.make_slots(secrets, key_id, key)
        file.save_next(KeySet(key_id, made), key, new=made)
        self._complete(key)
        file.slot_id, file.secret = made[0].id, secrets[0]

    def _complete(self, next_key: bytes) -> None:
        """Write everything under the next key, then drop the current one."""
        keys = self._file.keys
        pending, old = keys.next, keys.current
        assert pending is not None
        self._contents().remove_pending()
        target = self._contents_under(pending, next_key)
        newest, previous = self.read(), None
        with suppress(VaultError):  # a damaged one is not carried over
            previous = self.read_previous()
        written = [self._add(target, one) for one in (previous, newest) if one is not None]
        self._file.save(Keys(self.vault_id, pending), next_key)
        rest = [one for one in list_generations(self.folder) if one not in written]
        self._afterwards(lambda: remove_generations(self.folder, rest))
        self._finish_write(max(written, default=0), min(written, default=0))
        self._forget(old.slots)

    def _undo(self) -> None:
        """Drop the next key and what is under it."""
        keys = self._file.keys
        assert keys.next is not None
        self._contents().remove_pending()
        self._file.save(Keys(self.vault_id, keys.current), self._file.key)
        self._forget(keys.next.slots)

    def settle(self) -> None:
        """Before a change: nobody else wrote, and no forgetting and no rotation is half done.

        Raises as `write`.
        """
        if self.newest > self._highest or not self._file.unchanged():
            raise BusyError(
                f"{self.folder.name}: another program changed the vault meanwhile",
                hint="repeat the command",
            )
        forgotten = self._contents().forgotten()
        if forgotten is not None:
            self._drop_before(forgotten)
        if self._file.keys.next is not None:
            if self._file.next_key is None:
                self._warn("an interrupted change of the master key is undone")
                self._undo()
            else:
                self._warn("an interrupted change of the master key is completed")
                self._complete(self._file.next_key)

    def _contents(self) -> Contents:
        return contents_of(self._file)

    def _contents_under(self, keys: KeySet, key: bytes) -> Contents:
        return Contents(self.folder, self.vault_id, keys.key_id, key)

    def _add(self, contents: Contents, content: Content) -> int:
        """Write this content as the next generation; returns its number."""
        # Counted before it is written: a write that failed late may have left the file.
        self._highest += 1
        contents.add(replace(content, generation=self._highest), random=self._file.random)
        return self._highest

    def _find(self, contents: Contents, warn: Warn) -> Content | None:
        content = contents.find(warn)
        self._check_replay(0 if content is None else content.generation, warn)
        return content

    def _check_replay(self, used: int, warn: Warn) -> None:
        """Raise VaultError where an older copy was put back; called while `consistent` looks."""
        if self._guarded():
            try:
                keyring_store.check_generation(self.vault_id, newest=self.newest, used=used)
            except KeyringError as error:
                warn(f"cannot tell whether an old copy was put back: {error.message}")

    def _drop_before(self, generation: int) -> None:
        """Remove the generations before this one, and note that none of them may be put back."""
        self._note(generation, generation)
        self._contents().remove_before(generation)

    def _finish_write(self, newest: int, oldest: int | None) -> None:
        # Checkpoints are of training that began from the state before.
        self._afterwards(lambda: remove_working(self.folder))
        self._afterwards(lambda: remove_leftovers(self.folder))
        self._note(newest, oldest)

    def _note(self, newest: int, oldest: int | None) -> None:
        """Note these numbers of whole generations in the keyring; None where not known."""
        if self._guarded() and newest:
            self._afterwards(lambda: keyring_store.note_generation(self.vault_id, newest, oldest))

    def _forget(self, slots: Sequence[Slot]) -> None:
        """Remove the keyring's entries of slots that are gone; carried ones are not gone."""
        there = {slot.id for one in self._file.keys.key_sets() for slot in one.slots}
        gone = [slot for slot in slots if slot.kind == "keyring" and slot.id not in there]
        for slot in gone:
            self._afterwards(partial(forget_slot, slot, self.vault_id))
        if gone and not self._guarded():
            self._afterwards(lambda: keyring_store.forget_generations(self.vault_id))

    def _guarded(self) -> bool:
        return self._file.keys.current.has_keyring()

    def _afterwards(self, action: Callable[[], Result]) -> Result | None:
        """Run what follows a complete change; a failure is a warning, and the next tries again."""
        try:
            return action()
        except ProperError as error:
            self._warn(f"not everything could be cleaned up: {error.message}")
            return None

    def _warn(self, text: str) -> None:
        if text not in self.warnings:
            self.warnings.append(text)
            if self._tell is not None:
                self._tell(text)
