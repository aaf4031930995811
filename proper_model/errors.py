"""Errors that PROPER raises on purpose, each with its own exit code and a next step.

Every message says what is wrong, where, and what was expected; `hint` says what to do next.
Messages may quote file names, field names, record numbers and counts, never user text.
"""

from __future__ import annotations

import os
import traceback


class ProperError(Exception):
    """Base class. `exit_code` is what a command line returns for it; 1 is kept for bugs."""

    exit_code = 10

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class ConfigError(ProperError):
    """A setting is unknown, out of range, or contradicts another one."""

    exit_code = 11


class TaskError(ProperError):
    """A task file is malformed or does not fit the data it is used with."""

    exit_code = 12


class DataError(ProperError):
    """Input data is missing or malformed. The message holds file, record and field."""

    exit_code = 13


class FetchError(ProperError):
    """A download failed or returned something that is not the file asked for."""

    exit_code = 14


class BaseModelError(ProperError):
    """The base model cannot be loaded or has a structure PROPER does not support."""

    exit_code = 15


class TrainingError(ProperError):
    """Training cannot go on, for example because a loss is not finite."""

    exit_code = 16


class CheckpointError(ProperError):
    """A checkpoint or cached phase is damaged or belongs to another run."""

    exit_code = 17


class MetricError(ProperError):
    """Predictions and gold answers do not match one to one, or a metric does not apply."""

    exit_code = 18


class ReportError(ProperError):
    """Results needed for scoring or a report are missing or incomplete."""

    exit_code = 19


class StorageError(ProperError):
    """A file or folder of ours cannot be written or read; the message holds the system's reason."""

    exit_code = 20


class NothingLearnedError(ProperError):
    """A stage ended where it began, so that what it would release changes no answer."""

    exit_code = 21


class BundleError(ProperError):
    """A release bundle was refused. Children say why; the installed bundle stays."""

    exit_code = 30


class BundleFormatError(BundleError):
    """Malformed: not canonical, unknown field, wrong type, missing or extra file."""

    exit_code = 31


class BundleLimitError(BundleError):
    """Larger than the limits that are checked before parsing."""

    exit_code = 32


class BundleSignatureError(BundleError):
    """Not signed by a key this device trusts."""

    exit_code = 33


class BundleIntegrityError(BundleError):
    """A file's size, hash or tensor table differs from the signed manifest."""

    exit_code = 34


class BundleExpiredError(BundleError):
    """The bundle expired before it was installed."""

    exit_code = 35


class BundleRollbackError(BundleError):
    """Older than a version this device has already accepted."""

    exit_code = 36


class BundleForeignError(BundleError):
    """Made for another product, format version or base model."""

    exit_code = 37


class BundleTimeError(BundleError):
    """Made in the future of this device's clock, or valid for longer than any document may be."""

    exit_code = 38


class StateError(ProperError):
    """Private state is missing, damaged or belongs to another bundle or user."""

    exit_code = 40


class EgressError(ProperError):
    """Something that is not on the allow-list was about to leave, or was found outside."""

    exit_code = 41


class ProtocolError(ProperError):
    """A peer sent a message this version does not understand."""

    exit_code = 42


class SimulationError(ProperError):
    """The simulated federation did not finish, or nodes reported failures."""

    exit_code = 43


class NotInstalledError(ProperError):
    """The bundle that a round is about is not installed on this node."""

    exit_code = 44


class PassphraseError(ProperError):
    """A wrong passphrase, key file or keyring entry, or an altered key slot: which one is not known."""

    exit_code = 45


class VaultError(ProperError):
    """The vault is damaged, of an unknown format, or lacks what was asked for."""

    exit_code = 46


class VaultForeignError(VaultError):
    """A vault file belongs to another user, vault or bundle than the one expected."""

    exit_code = 47


class BusyError(ProperError):
    """Another process works on the same folder."""

    exit_code = 48


class ExportError(ProperError):
    """The adapter cannot be written in the format that was asked for."""

    exit_code = 49


class NotAdaptedError(ProperError):
    """A command needs an adaptation that has not been made yet."""

    exit_code = 50


class UnfitError(ProperError):
    """Something about this machine or folder has to be mended first."""

    exit_code = 51


class InterruptedRunError(ProperError):
    """The user interrupted the run; it can be resumed."""

    exit_code = 130


def traceback_of(error: BaseException) -> str:
    """Where an exception came from, as Python shows it, but without what others may have quoted.

    `KeyError`, `int()` and asserts quote data, and whoever asks for a traceback may pass it on. So of
    an exception, and of those it came from, the type and the lines of source are told, a message only
    if PROPER wrote it, and the system's own words for an error of it.
    """
    told: list[str] = []
    seen: set[int] = set()
    one: BaseException | None = error
    while one is not None and id(one) not in seen:
        seen.add(id(one))
        frames = "".join(traceback.format_tb(one.__traceback__))
        told.append(
            f"Traceback (most recent call last):\n{frames}{type(one).__name__}{_said(one)}\n"
        )
        one = one.__cause__ or (None if one.__suppress_context__ else one.__context__)
    return "\nfrom this came:\n\n".join(reversed(told))


def _said(error: BaseException) -> str:
    if isinstance(error, ProperError):
        return f": {error.message}"
    return f": {os.strerror(error.errno)}" if isinstance(error, OSError) and error.errno else ""
