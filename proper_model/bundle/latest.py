"""The publisher's statement of which release is the newest: small, signed, valid for a short time.

A manifest says that a release is the publisher's; only this document says that there is none after it. It
expires within weeks and is signed again without a new release, so that a server that goes on showing
an old one is noticed. Each has a number, one more every time it is signed.
Source: the timestamp role of The Update Framework, section 5.4; docs/bundle-format.md section 3.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from proper_model.bundle.folder_names import LATEST_NAME, MAX_LATEST_BYTES
from proper_model.bundle.signatures import (
    CHANNEL_PATTERN,
    KEY_ID,
    LATEST_DOMAIN,
    PRODUCT,
    check_origin,
    exact_object,
    match_text,
    parse_signature_fields,
    signature_fields,
    whole_number,
)
from proper_model.bundle.signed_time import (
    MAX_LATEST_DAYS,
    check_created,
    check_lifetime,
    format_time,
    time_field,
)
from proper_model.bundle.trusted_root import TrustedRoot
from proper_model.errors import BundleFormatError, BundleSignatureError
from proper_model.storage import canonical

LATEST_FORMAT = 1
_FIELDS = {"product", "latest_format", "channel", "number", "version", "bundle_id"}
_FIELDS |= {"created", "expires"}


@dataclass(frozen=True)
class Latest:
    """What latest.json says.

    Attributes:
        channel: the population.
        number: one more with every signing, also when the release is the same.
        version, bundle_id: of the newest release.
        created, expires: aware times; after `expires` it says nothing about the present.
    """

    channel: str
    number: int
    version: int
    bundle_id: str
    created: datetime
    expires: datetime

    def to_bytes(self) -> bytes:
        """The canonical bytes that are signed.

        Raises BundleFormatError, BundleTimeError: what a device would refuse.
        """
        check_lifetime(self.created, self.expires, MAX_LATEST_DAYS, where=LATEST_NAME)
        fields = {
            "product": PRODUCT,
            "latest_format": LATEST_FORMAT,
            "channel": self.channel,
            "number": self.number,
            "version": self.version,
            "bundle_id": self.bundle_id,
            "created": format_time(self.created),
            "expires": format_time(self.expires),
        }
        _parse(fields)
        return canonical.encode(fields)


@dataclass(frozen=True)
class Pointer:
    """latest.json as it was read: nothing in it has been verified.

    Attributes:
        latest: what it says; None in the old form, which has no signature.
        signed: the bytes that are signed; empty in the old form.
    """

    version: int
    bundle_id: str
    latest: Latest | None
    signed: bytes
    signatures: Mapping[str, bytes]

    def verify(self, root: TrustedRoot, now: datetime) -> tuple[Latest, tuple[str, ...]]:
        """What it says, and the ids of the keys that signed it. Expiry is for the caller to judge.

        Raises BundleSignatureError: unsigned, or not by enough keys of the role `latest`;
        BundleForeignError: for another channel; BundleTimeError: made in the future, or valid for
        longer than it may be.
        """
        if self.latest is None:
            raise BundleSignatureError(
                f"{LATEST_NAME}: not signed",
                hint="ask the publisher to sign it: proper-coordinator release sign-latest",
            )
        keys = root.verify(LATEST_DOMAIN, self.signed, self.signatures, where=LATEST_NAME)
        latest = self.latest
        root.check_channel(latest.channel, LATEST_NAME)
        check_lifetime(latest.created, latest.expires, MAX_LATEST_DAYS, where=LATEST_NAME)
        check_created(latest.created, now, where=LATEST_NAME)
        return latest, keys


def sign_latest(latest: Latest, keys: Sequence[Ed25519PrivateKey]) -> bytes:
    """Contents of latest.json. Raises as `Latest.to_bytes` and `signatures.sign`."""
    signed = latest.to_bytes()
    return canonical.encode(
        {
            "signed": canonical.decode(signed, where=LATEST_NAME),
            "signatures": signature_fields(LATEST_DOMAIN, signed, keys),
        }
    )


def parse_latest(data: bytes) -> Pointer:
    """Read latest.json, also the unsigned one of earlier publishers.

    Raises BundleForeignError: another product or format; BundleFormatError: damaged, or
    longer than `MAX_LATEST_BYTES`; BundleLimitError: too many signatures.
    """
    if len(data) > MAX_LATEST_BYTES:
        raise BundleFormatError(f"{LATEST_NAME}: over {MAX_LATEST_BYTES} bytes")
    value = canonical.decode(data, where=LATEST_NAME)
    if not isinstance(value, dict) or "signed" not in value:
        fields = exact_object(value, {"version", "bundle_id"}, LATEST_NAME)
        version = whole_number(fields["version"], f"{LATEST_NAME}: version")
        bundle_id = match_text(KEY_ID, fields["bundle_id"], f"{LATEST_NAME}: bundle_id")
        return Pointer(version, bundle_id, None, b"", {})
    fields = exact_object(value, {"signed", "signatures"}, LATEST_NAME)
    latest = _parse(fields["signed"])
    return Pointer(
        latest.version,
        latest.bundle_id,
        latest,
        # The whole file is canonical, hence so is this part: these are the very bytes.
        canonical.encode(fields["signed"]),
        parse_signature_fields(fields["signatures"], where=LATEST_NAME),
    )


def _parse(value: Any) -> Latest:
    check_origin(value, "latest_format", (LATEST_FORMAT,), LATEST_NAME)
    fields = exact_object(value, _FIELDS, LATEST_NAME)
    whole_number(fields["latest_format"], f"{LATEST_NAME}: latest_format")
    return Latest(
        channel=match_text(CHANNEL_PATTERN, fields["channel"], f"{LATEST_NAME}: channel"),
        number=whole_number(fields["number"], f"{LATEST_NAME}: number"),
        version=whole_number(fields["version"], f"{LATEST_NAME}: version"),
        bundle_id=match_text(KEY_ID, fields["bundle_id"], f"{LATEST_NAME}: bundle_id"),
        created=time_field(fields["created"], LATEST_NAME),
        expires=time_field(fields["expires"], LATEST_NAME),
    )
