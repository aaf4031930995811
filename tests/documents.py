"""What `--json` printed, checked against the committed schema by a library of others."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

from client.commands.documents import DOCUMENTS as DEVICE
from coordinator.commands.documents import DOCUMENTS as COORDINATOR
from proper_model.json_output.schema import Documents, either
from simulations.setup.documents import DOCUMENTS as SIMULATIONS

SCHEMA = Path(__file__).resolve().parent.parent / "docs" / "json-schema.json"
PROGRAMS: Mapping[str, Documents] = {
    "proper": DEVICE,
    "proper-sim": SIMULATIONS,
    "proper-coordinator": COORDINATOR,
}


@cache
def committed() -> dict[str, Any]:
    return dict(json.loads(SCHEMA.read_text()))


def document(out: str, command: str, program: str = "proper") -> dict[str, Any]:
    """The one document on stdout, which is of this command. Raises for any that is not as written."""
    (line,) = out.splitlines()
    found: dict[str, Any] = json.loads(line)
    own = committed()["programs"][program]
    Draft202012Validator({**own["commands"][command], "$defs": own["$defs"]}).validate(found)
    either(PROGRAMS[program][command]).validate_json(line)
    assert found["command"] == command
    return found


def error_document(out: str) -> dict[str, Any]:
    """The error that stands on stdout instead."""
    (line,) = out.splitlines()
    found: dict[str, Any] = json.loads(line)
    Draft202012Validator(committed()["error"]).validate(found)
    return found
