"""A device while a round runs: its folder, its user, and hashes of what results depend on."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

from client.node.device import DeviceFolder
from proper_model.tasks import User, user_to_json


@dataclass(frozen=True)
class Hosted:
    """A device and its user."""

    device: DeviceFolder
    user: User

    @property
    def history_key(self) -> str:
        return digest(user_to_json(self.user)["profile"])

    @property
    def queries_key(self) -> str:
        return digest(user_to_json(self.user)["query"])


def digest(content: object) -> str:
    """SHA-256, in hexadecimal, of something JSON-ready."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()
