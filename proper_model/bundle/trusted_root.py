"""Whom a device trusts: three roles with their own keys, and how to move to new keys.

    root      signs the next root; its keys lie offline, and a threshold of them is needed
    release   signs the manifests of releases
    latest    signs the short-lived statement of which release is the newest; may be kept online

A `TrustedRoot` is pinned on the device out of band. A stolen release key cannot change it: only the
root role can, and a new root takes the stolen key away. Format 1 of the document had one list of keys
for all three roles; it is read, works, and may be followed by format 2, never the other way.
Source: The Update Framework, sections 2 and 5.3; docs/bundle-format.md section 3. No I/O.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from proper_model.bundle.public_keys import check_public_key, key_id, public_bytes
from proper_model.bundle.signatures import (
    CHANNEL_PATTERN,
    KEY_ID,
    LATEST_DOMAIN,
    MANIFEST_DOMAIN,
    MAX_KEYS,
    PRODUCT,
    ROOT_DOMAIN,
    check_length,
    check_origin,
    check_signature,
    exact_object,
    match_text,
    parse_signatures,
    whole_number,
)
from proper_model.bundle.signed_time import (
    MAX_ROOT_DAYS,
    check_created,
    check_lifetime,
    format_time,
    time_field,
)
from proper_model.errors import (
    BundleExpiredError,
    BundleForeignError,
    BundleFormatError,
    BundleRollbackError,
    BundleSignatureError,
)
from proper_model.storage import canonical

DEFAULT_CHANNEL = "default"
OWN_CHANNEL = "own"
"""Of a release that a person made alone. Its root speaks for nobody else, so a publisher's may replace it."""
ROOT, RELEASE, LATEST = "root", "release", "latest"
ROLES = (ROOT, RELEASE, LATEST)
# The kind of a document decides whose signature counts.
ROLE_OF = {ROOT_DOMAIN: ROOT, MANIFEST_DOMAIN: RELEASE, LATEST_DOMAIN: LATEST}

ONE_ROLE_FORMAT, ROOT_FORMAT = 1, 2
MAX_ROOT_BYTES = 16 * 1024
_WHERE = "trusted root"

AnyKey = Ed25519PrivateKey | Ed25519PublicKey


@dataclass(frozen=True)
class Role:
    """Ids of the keys that may sign for a role, sorted, and how many of them must."""

    keys: tuple[str, ...]
    threshold: int = 1

    @classmethod
    def of(cls, keys: Sequence[AnyKey], threshold: int = 1) -> Role:
        """The role of these keys."""
        return cls(tuple(sorted({key_id(public_bytes(key)) for key in keys})), threshold)


@dataclass(frozen=True)
class TrustedRoot:
    """Keys a device accepts documents from, by role.

    Attributes:
        keys: key id -> 32 raw public key bytes, of every role.
        roles: role name -> who signs for it; in format 1 one and the same for all.
        version: 1 for the first root of a population, one more with every rotation.
        channel: the population the releases are for; one key may serve several channels without
            a release of one being accepted in another.
        created, expires: aware times; None in format 1, which had none.
    """

    keys: Mapping[str, bytes]
    roles: Mapping[str, Role]
    version: int = 1
    channel: str = DEFAULT_CHANNEL
    created: datetime | None = None
    expires: datetime | None = None

    def __post_init__(self) -> None:
        if not 1 <= len(self.keys) <= MAX_KEYS:
            raise BundleFormatError(f"{_WHERE}: {len(self.keys)} keys, expected 1 to {MAX_KEYS}")
        whole_number(self.version, f"{_WHERE}: version")
        match_text(CHANNEL_PATTERN, self.channel, f"{_WHERE}: channel")
        for name, public in self.keys.items():
            check_public_key(public, where=_WHERE)
            if key_id(public) != name:
                raise BundleFormatError(f"{_WHERE}: a key does not match its id")
        # Of a point and its negative, which differ in one bit, one secret opens both.
        if len({public[:-1] + bytes([public[-1] & 127]) for public in self.keys.values()}) < len(
            self.keys
        ):
            raise BundleFormatError(f"{_WHERE}: lists a key and its negative, which are one secret")
        self._check_roles()
        if self.created is not None and self.expires is not None:
            check_lifetime(self.created, self.expires, MAX_ROOT_DAYS, where=_WHERE)

    @property
    def format(self) -> int:
        return ONE_ROLE_FORMAT if self.expires is None else ROOT_FORMAT

    @property
    def is_own(self) -> bool:
        """Whether it is of one release that a person made alone, so that any other may replace it.

        The channel alone does not say so: a publisher's root that has it, with roles or as a later version,
        stays pinned.
        """
        first = (self.format, self.version, len(self.keys)) == (ONE_ROLE_FORMAT, 1, 1)
        return first and self.channel == OWN_CHANNEL

    @property
    def fingerprint(self) -> str:
        """SHA-256 of root.json in groups of four digits, for two people to compare."""
        digits = hashlib.sha256(self.to_bytes()).hexdigest()
        return " ".join(digits[start : start + 4] for start in range(0, len(digits), 4))

    @property
    def threshold(self) -> int:
        """How many root keys must sign the next root."""
        return self.roles[ROOT].threshold

    @classmethod
    def of(
        cls,
        keys: Sequence[AnyKey],
        *,
        threshold: int = 1,
        version: int = 1,
        channel: str = DEFAULT_CHANNEL,
    ) -> TrustedRoot:
        """A root of format 1: these keys for every role. New populations take `with_roles`."""
        public = {key_id(public_bytes(key)): public_bytes(key) for key in keys}
        return cls(public, dict.fromkeys(ROLES, Role.of(keys, threshold)), version, channel)

    @classmethod
    def with_roles(
        cls,
        roles: Mapping[str, tuple[Sequence[AnyKey], int]],
        *,
        created: datetime,
        expires: datetime,
        version: int = 1,
        channel: str = DEFAULT_CHANNEL,
    ) -> TrustedRoot:
        """A root of format 2 from keys and threshold of every role; only public halves enter it."""
        public = [public_bytes(key) for keys, _ in roles.values() for key in keys]
        return cls(
            {key_id(raw): raw for raw in public},
            {name: Role.of(keys, threshold) for name, (keys, threshold) in roles.items()},
            version,
            channel,
            created,
            expires,
        )

    def to_bytes(self) -> bytes:
        """Canonical bytes of root.json."""
        fields: dict[str, Any] = {
            "product": PRODUCT,
            "root_format": self.format,
            "version": self.version,
            "channel": self.channel,
            "keys": {name: public.hex() for name, public in self.keys.items()},
        }
        if self.created is None or self.expires is None:
            return canonical.encode({**fields, "threshold": self.threshold})
        roles = {
            name: {"keys": list(role.keys), "threshold": role.threshold}
            for name, role in self.roles.items()
        }
        times = {"created": format_time(self.created), "expires": format_time(self.expires)}
        return canonical.encode({**fields, **times, "roles": roles})

    @classmethod
    def from_bytes(cls, data: bytes) -> TrustedRoot:
        """Read root.json of either format.

        Raises BundleLimitError: more than `MAX_ROOT_BYTES`; BundleForeignError: another product or
        root format; BundleTimeError: valid for longer than a root may be; BundleFormatError:
        anything else that is not a root.
        """
        where = "root.json"
        check_length(data, MAX_ROOT_BYTES, where)
        value = canonical.decode(data, where=where)
        check_origin(value, "root_format", (ONE_ROLE_FORMAT, ROOT_FORMAT), where)
        names = {"product", "root_format", "version", "channel", "keys"}
        old = value.get("root_format") == ONE_ROLE_FORMAT
        own = {"threshold"} if old else {"created", "expires", "roles"}
        fields = exact_object(value, names | own, where)
        whole_number(fields["root_format"], f"{where}: root_format")  # `True` equals 1
        if not isinstance(fields["keys"], dict):
            raise BundleFormatError(f"{where}: keys must be an object")
        keys = {
            name: bytes.fromhex(match_text(KEY_ID, public, f"{where}: public key"))
            for name, public in fields["keys"].items()
        }
        created = expires = None
        if old:
            threshold = whole_number(fields["threshold"], f"{where}: threshold")
            roles = dict.fromkeys(ROLES, Role(tuple(sorted(keys)), threshold))
        else:
            roles = _parse_roles(fields["roles"], where)
            created, expires = (time_field(fields[name], where) for name in ("created", "expires"))
        version = whole_number(fields["version"], f"{where}: version")
        return cls(keys, roles, version, fields["channel"], created, expires)

    def verify(
        self, domain: bytes, message: bytes, signatures: bytes | Mapping[str, bytes], *, where: str
    ) -> tuple[str, ...]:
        """Ids of the keys that signed `domain || message`, enough of the role for this kind of document.

        Signatures by keys that are not the role's are ignored, because a document signed by the old
        and the new keys must be readable under either root. One of the role's must be valid.

        `signatures`: a signature file, or signatures by key id.

        Raises BundleSignatureError: fewer keys signed than the role's threshold, or a signature is
        wrong; BundleFormatError, BundleLimitError: the signature file itself is malformed.
        """
        given = parse_signatures(signatures) if isinstance(signatures, bytes) else signatures
        name = ROLE_OF[domain]
        role = self.roles[name]
        known = sorted(key for key in given if key in role.keys)
        if len(known) < role.threshold:
            raise BundleSignatureError(
                f"{where}: signed by {len(known)} of the {len(role.keys)} {name} keys this device "
                f"trusts, expected at least {role.threshold}",
                hint="it comes from another publisher, one of its keys was revoked, or the device "
                "needs a newer root",
            )
        for key in known:
            check_signature(self.keys[key], given[key], domain + message, where=where)
        return tuple(known)

    def are_enough(self, role: str, keys: Sequence[str]) -> bool:
        """Whether a document for `role` that these keys sign is accepted under this root."""
        return len(set(keys) & set(self.roles[role].keys)) >= self.roles[role].threshold

    def still_vouches(self, role: str, keys: Sequence[str]) -> bool:
        """Whether what these keys signed for `role` under an earlier root counts under this one.

        It does unless keys were taken away and those that are left are too few. A threshold that was
        only raised takes nothing away.
        """
        return set(keys) <= set(self.roles[role].keys) or self.are_enough(role, keys)

    def check_current(self, now: datetime) -> None:
        """Refuse to judge new documents by a root that is past its time, or ahead of it.

        Raises BundleExpiredError: expired; BundleTimeError: made in the future.
        """
        if self.created is None or self.expires is None:
            return
        check_created(self.created, now, where=_WHERE)
        if now >= self.expires:
            raise BundleExpiredError(
                f"{_WHERE}: version {self.version} expired at {format_time(self.expires)}",
                hint="ask the publisher for the next root, and check this device's clock; what is "
                "installed keeps working",
            )

    def check_channel(self, channel: str, where: str) -> None:
        """Raises BundleForeignError for another channel than this root's."""
        if channel != self.channel:
            raise BundleForeignError(
                f"{where}: for channel {channel}, this device follows {self.channel}"
            )

    def _check_roles(self) -> None:
        if set(self.roles) != set(ROLES):
            raise BundleFormatError(f"{_WHERE}: expected the roles {', '.join(ROLES)}")
        for name, role in self.roles.items():
            where = f"{_WHERE}: role {name}" if self.expires else _WHERE
            if role.keys != tuple(sorted(set(role.keys))) or not set(role.keys) <= set(self.keys):
                raise BundleFormatError(f"{where}: keys must be sorted, different, and listed")
            if not 1 <= role.threshold <= len(role.keys):
                raise BundleFormatError(
                    f"{where}: threshold {role.threshold}, expected 1 to {len(role.keys)} "
                    "(its keys)"
                )
        if self.expires is None:
            return
        if {key for role in self.roles.values() for key in role.keys} != set(self.keys):
            raise BundleFormatError(f"{_WHERE}: lists a key that no role uses")
        if set(self.roles[ROOT].keys) & {*self.roles[RELEASE].keys, *self.roles[LATEST].keys}:
            raise BundleFormatError(
                f"{_WHERE}: a root key also signs releases; the root role has keys of its own",
                hint="keep root keys offline, and make others for releases",
            )


def rotate(current: TrustedRoot, root: bytes, signatures: bytes) -> TrustedRoot:
    """The next root, if the root keys of both the current and the new one vouch for it.

    Whether the last root of a chain has expired, `TrustedRoot.check_current` says.

    `root` are its bytes, `signatures` a signature file over `ROOT_DOMAIN || root`.

    Raises:
        BundleSignatureError: below the threshold of the old or of the new root.
        BundleRollbackError: a version this device already has, an older one, or an older format.
        BundleFormatError: a version was skipped.
        BundleForeignError, BundleLimitError, BundleTimeError: as `TrustedRoot.from_bytes`.
    """
    check_length(root, MAX_ROOT_BYTES, "root.json")
    current.verify(ROOT_DOMAIN, root, signatures, where="new root, by the current keys")
    new = TrustedRoot.from_bytes(root)
    new.verify(ROOT_DOMAIN, root, signatures, where="new root, by its own keys")
    current.check_channel(new.channel, "new root")
    if new.version <= current.version:
        raise BundleRollbackError(
            f"new root: version {new.version}, this device already has {current.version}"
        )
    if new.version != current.version + 1:
        raise BundleFormatError(
            f"new root: version {new.version}, expected exactly {current.version + 1}",
            hint="apply the roots between them first, in order",
        )
    if new.format < current.format:
        raise BundleRollbackError(
            f"new root: format {new.format} without roles, after format {current.format}"
        )
    return new


def _parse_roles(value: Any, where: str) -> dict[str, Role]:
    roles = {}
    for name, entry in exact_object(value, set(ROLES), f"{where}: roles").items():
        place = f"{where}: role {name}"
        fields = exact_object(entry, {"keys", "threshold"}, place)
        if not isinstance(fields["keys"], list):
            raise BundleFormatError(f"{place}: keys must be an array")
        ids = tuple(match_text(KEY_ID, key, f"{place}: key id") for key in fields["keys"])
        roles[name] = Role(ids, whole_number(fields["threshold"], f"{place}: threshold"))
    return roles
