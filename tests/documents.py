"""What `--json` printed, checked against the committed schema by a library of others."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator
from pydantic import TypeAdapter

from client.commands.documents import DOCUMENTS

SCHEMA = Path(__file__).resolve().parent.parent / "docs" / "json-schema.json"


@cache
def committed() -> dict[str, Any]:
    return dict(json.loads(SCHEMA.read_text()))


def document(out: str, command: str) -> dict[str, Any]:
    """The one document on stdout, which is of this command. Raises for any that is not as written."""
    (line,) = out.splitlines()
    found: dict[str, Any] = json.loads(line)
    Draft202012Validator(committed()["commands"][command]).validate(found)
    whole: Any = DOCUMENTS[command][0]
    for model in DOCUMENTS[command][1:]:
        whole = whole | model
    TypeAdapter(whole).validate_json(line)
    assert found["command"] == command
    return found


def error_document(out: str) -> dict[str, Any]:
    """The error that stands on stdout instead."""
    (line,) = out.splitlines()
    found: dict[str, Any] = json.loads(line)
    Draft202012Validator(committed()["error"]).validate(found)
    return found
