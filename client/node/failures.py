"""What becomes of an exception on a node: a fixed code that travels, a note that stays.

Exception texts quote data (`KeyError`, `int()`, `float()` and asserts all do), and Flower sends
them to the server. So at the node's boundary every exception becomes a `Status`; the note for the
operator holds the type and the source lines it passed, and a message only if PROPER wrote it.
Source: docs/security.md 0.1.
"""

from __future__ import annotations

import traceback
from pathlib import Path

from proper_model.errors import (
    BundleError,
    EgressError,
    NotInstalledError,
    ProperError,
    ProtocolError,
)
from proper_model.federation.protocol import Kind, Status

MAX_FRAMES = 12


def status_of(error: BaseException, kind: Kind) -> Status:
    """The fixed code for an exception while answering a `kind` request."""
    if isinstance(error, ProtocolError):
        return Status.PROTOCOL
    if isinstance(error, NotInstalledError):
        return Status.NO_BUNDLE
    if isinstance(error, BundleError):
        # A damaged piece can be sent again; a bundle that failed verification cannot.
        return Status.PIECE_REFUSED if kind is Kind.STORE else Status.BUNDLE_REFUSED
    if isinstance(error, EgressError):
        return Status.EGRESS
    if isinstance(error, OSError):
        return Status.STORAGE
    return Status.INTERNAL


def describe(error: BaseException) -> tuple[str, str]:
    """(type name, where and, for our own errors, what) of an exception, without quoting data."""
    frames = traceback.extract_tb(error.__traceback__)[-MAX_FRAMES:]
    place = " > ".join(f"{Path(f.filename).name}:{f.lineno} {f.name}" for f in frames)
    if isinstance(error, ProperError):
        return type(error).__name__, f"{error.message} [{place}]"
    return type(error).__name__, f"[{place}]"
