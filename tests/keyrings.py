"""Keyring backends for tests: one in memory, and ones that must not be used."""

from __future__ import annotations

import keyring.backend
from keyring.errors import KeyringLocked


class MemoryKeyring(keyring.backend.KeyringBackend):
    """What a desktop's keyring does, for as long as the test runs."""

    priority = 5

    def __init__(self, entries: dict[str, str] | None = None) -> None:
        super().__init__()
        self.entries = dict(entries or {})
        self.locked = False

    def _entry(self, service: str, username: str) -> str:
        if self.locked:
            raise KeyringLocked("canary of the service")
        assert service == "proper"
        return username

    def get_password(self, service: str, username: str) -> str | None:
        return self.entries.get(self._entry(service, username))

    def set_password(self, service: str, username: str, password: str) -> None:
        self.entries[self._entry(service, username)] = password

    def delete_password(self, service: str, username: str) -> None:
        del self.entries[self._entry(service, username)]


class PlaintextKeyring(MemoryKeyring):
    """Named as the one of keyrings.alt, and given a high priority by a careless configuration."""

    priority = 9


class WeakKeyring(MemoryKeyring):
    """A backend the keyring package does not recommend."""

    priority = 0.5


class ForgetfulKeyring(MemoryKeyring):
    """Accepts everything and keeps nothing."""

    def set_password(self, service: str, username: str, password: str) -> None:
        pass
