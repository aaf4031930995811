"""Names of phases for people. Messages, journals and timings keep the short ones."""

from __future__ import annotations

from contextlib import AbstractContextManager

from client.terminal import console
from proper_model.federation.protocol import Kind

NAMES = {
    "coordinator": "starting the coordinator",
    "base": "loading the base",
    "tokenize": "tokenizing",
    "release": "making the release",
    "population": "stage 1, population",
    "group": "stage 2, groups",
    "router": "stage 3, router",
    Kind.HAVE: "asking devices what they lack",
    Kind.STORE: "sending the bundle",
    Kind.INSTALL: "installing the bundle",
    "personalize": "personalizing",
    Kind.PERSONALIZE: "personalizing",
    Kind.EVALUATE: "predicting",
}


def phase_name(phase: str) -> str:
    """What a person reads for a phase; parts before and after it, such as a fold, stay."""
    return ": ".join(NAMES.get(part, part) for part in phase.split(": "))


def progress_bars() -> AbstractContextManager[console.Callback]:
    """Bars or lines for the phases of a run, under their names for people."""
    return console.progress_bars(phase_name)
