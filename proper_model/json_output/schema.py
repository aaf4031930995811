"""Types of documents, their JSON schema, and tables of their fields for docs/json.md.

Each program lists its own (`Documents`). What a command prints is not made of these types, whose
loading takes time; tests hold the two together.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import UnionType
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from proper_model.json_output.document import SCHEMA


class Part(BaseModel):
    """Something in a document. Unknown fields are a fault of ours."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Document(Part):
    version: Literal[1] = Field(alias="schema", description="of these documents")
    command: str = Field(description="words of the command")


class Told(Part):
    code: int = Field(description="the exit code")
    kind: str = Field(description="the error's name, as in docs/exit-codes.md")
    message: str = Field(description="what is wrong, where, and what was expected")
    next: str = Field(description="what to do; may be empty")


class Failed(BaseModel):
    """Instead of any other document; some commands add what they found before."""

    model_config = ConfigDict(extra="allow", strict=True)

    version: Literal[1] = Field(alias="schema", description="of these documents")
    command: str | None = Field(description="null where the words were not understood")
    error: Told


Documents = Mapping[str, tuple[type[Document], ...]]
"""By the words of a command: one form, or several of which its options choose."""


def schema(programs: Mapping[str, Documents]) -> dict[str, Any]:
    """The JSON schema of every command's document, by program and words, and of errors.

    Commands of a program share its `$defs`.
    """
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "version": SCHEMA,
        "programs": {name: _program(documents) for name, documents in programs.items()},
        "error": TypeAdapter(Failed).json_schema(),
    }


def _program(documents: Documents) -> dict[str, Any]:
    mode: Literal["validation"] = "validation"
    forms = [(words, mode, either(own)) for words, own in documents.items()]
    found, shared = TypeAdapter.json_schemas(forms)
    commands = {words: found[words, mode] for words in documents}
    return {"commands": commands, "$defs": shared["$defs"]}


def either(forms: tuple[type[Document], ...]) -> TypeAdapter[Document]:
    """Reads whichever of the forms a document has."""
    whole: Any = forms[0]
    for form in forms[1:]:
        whole = whole | form
    return TypeAdapter(whole)


def tables(documents: Documents) -> str:
    """A table a form, its fields and what they are; parts that several share come last."""
    blocks: list[str] = []
    parts: dict[str, type[BaseModel]] = {}
    for models in dict.fromkeys(documents.values()):
        names = ", ".join(f"`{name}`" for name, own in documents.items() if own == models)
        for model in models:
            rows = _rows(model, parts, without=("version", "command"))
            title = names if model is models[0] else f"{names}, else"
            blocks.append(f"**{title}**\n\n{rows}")
    done: set[str] = set()
    while left := sorted(set(parts) - done):
        for name in left:
            blocks.append(f"**{name}**\n\n{_rows(parts[name], parts)}")
            done.add(name)
    return "\n\n".join(blocks)


def _rows(
    model: type[BaseModel], parts: dict[str, type[BaseModel]], without: tuple[str, ...] = ()
) -> str:
    lines = ["| field | is | |", "| --- | --- | --- |"]
    for name, field in model.model_fields.items():
        if name not in without:
            kind = _kind(field.annotation, parts).replace("|", "or")
            lines.append(f"| {field.alias or name} | {kind} | {field.description or ''} |")
    return "\n".join(lines)


def _kind(annotation: Any, parts: dict[str, type[BaseModel]]) -> str:
    """A type in words of JSON; models are noted in `parts`."""
    if annotation is type(None):
        return "null"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        known = parts.setdefault(annotation.__name__, annotation)
        assert known is annotation, f"two parts are called {annotation.__name__}"
        return annotation.__name__
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is list:
        return f"list of {_kind(inner[0], parts)}"
    if origin is dict:
        return f"object of {_kind(inner[1], parts)}"
    if origin is Literal:
        return " | ".join(json.dumps(value) for value in inner)
    if origin is UnionType:
        return " | ".join(_kind(one, parts) for one in inner)
    return {str: "text", int: "whole number", float: "number", bool: "true or false"}[annotation]
