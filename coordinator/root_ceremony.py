"""Making and changing a population's root: the first one, then each next one by enough root keys.

    root.json, root.signatures.json             the newest root, as devices read it
    root-1.json, root-2.json, root-2.signatures.json ...   the ones before it
    root-next.json, root-next.signatures.json   one that still lacks signatures

Different people keep the root keys, so a next root is proposed once and signed one key at a time, also
on other machines, if the two files are carried along. It takes its place when the root keys of both the
present and the next root have signed. Source: docs/bundle-format.md section 3, docs/releases.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from proper_model.bundle.folder_names import ROOT_NAME, ROOT_SIGNATURES_NAME, root_names
from proper_model.bundle.public_keys import key_id, public_bytes
from proper_model.bundle.signatures import (
    MAX_KEYS,
    MAX_SIGNATURE_BYTES,
    ROOT_DOMAIN,
    check_signature,
    parse_signatures,
    sign,
)
from proper_model.bundle.signed_time import MAX_ROOT_DAYS
from proper_model.bundle.trusted_root import (
    DEFAULT_CHANNEL,
    MAX_ROOT_BYTES,
    OWN_CHANNEL,
    ROOT,
    Role,
    TrustedRoot,
    rotate,
)
from proper_model.errors import BundleFormatError, BundleSignatureError, ConfigError
from proper_model.storage import canonical
from proper_model.storage.durable import create_file, write_file
from proper_model.storage.files import read_bounded, storage_errors

NEXT_NAME, NEXT_SIGNATURES_NAME = "root-next.json", "root-next.signatures.json"
ROOT_DAYS = 2 * 365


@dataclass(frozen=True)
class RoleChange:
    """What a next root changes in one role; `remove` holds whole key ids."""

    add: tuple[Ed25519PublicKey, ...] = ()
    remove: frozenset[str] = frozenset()
    threshold: int | None = None


@dataclass(frozen=True)
class Signing:
    """How far a next root is.

    Attributes:
        root: the root that was proposed.
        missing_current, missing_next: how many more keys of the present root and of it must sign.
    """

    root: TrustedRoot
    missing_current: int
    missing_next: int

    @property
    def done(self) -> bool:
        return not self.missing_current and not self.missing_next


def read_root(folder: Path, name: str = ROOT_NAME) -> TrustedRoot:
    """The newest root of a folder. Raises ConfigError if it is missing, BundleError if damaged."""
    data = _read(folder / name, MAX_ROOT_BYTES)
    if data is None:
        raise ConfigError(
            f"{folder}: no {name}",
            hint="make the first with: proper-coordinator keys make-root"
            if name == ROOT_NAME
            else "propose one with: proper-coordinator root rotate",
        )
    return TrustedRoot.from_bytes(data)


def create_root(
    folder: Path,
    roles: Mapping[str, tuple[Sequence[Ed25519PublicKey], int]],
    *,
    now: datetime,
    days: int = ROOT_DAYS,
    channel: str = DEFAULT_CHANNEL,
) -> TrustedRoot:
    """Write the first root of a population.

    Raises:
        ConfigError: there is one already, `days` is out of range, or `channel` is the one that devices
            take from no publisher.
        BundleFormatError: a threshold that its keys cannot reach, or a root key in another role.
        StorageError: the folder cannot be written.
    """
    if channel == OWN_CHANNEL:
        raise ConfigError(
            f"channel '{channel}': kept for releases that people make for themselves",
            hint="name the population otherwise: a device lets any publisher's root replace one of this channel",
        )
    root = TrustedRoot.with_roles(
        roles, created=now, expires=_expiry(now, days), version=1, channel=channel
    )
    path = folder / ROOT_NAME
    with storage_errors(path):
        try:
            create_file(path, root.to_bytes())
        except FileExistsError:
            raise ConfigError(
                f"{folder}: has a {ROOT_NAME} already; devices would not follow another first one",
                hint="change it with: proper-coordinator root rotate",
            ) from None
    return root


def propose(
    folder: Path, changes: Mapping[str, RoleChange], *, now: datetime, days: int = ROOT_DAYS
) -> TrustedRoot:
    """Write the next root of a folder, unsigned.

    Raises:
        ConfigError: one is waiting for signatures already, or a role would be left without keys.
        BundleFormatError: a root that no device would accept.
        StorageError: the folder cannot be written.
    """
    current = read_root(folder)
    if (folder / NEXT_NAME).exists():
        raise ConfigError(
            f"{folder}: {NEXT_NAME} is waiting for signatures",
            hint=f"sign it with: proper-coordinator root sign, or remove {NEXT_NAME}",
        )
    keys, roles = dict(current.keys), dict(current.roles)
    for name, change in changes.items():
        added = {key_id(public_bytes(key)): public_bytes(key) for key in change.add}
        unknown = change.remove - set(current.roles[name].keys)
        if unknown:
            raise ConfigError(f"role {name}: has no key {min(unknown)[:16]}")
        kept = (set(current.roles[name].keys) - change.remove) | set(added)
        threshold = change.threshold or current.roles[name].threshold
        if len(kept) < threshold:
            raise ConfigError(
                f"role {name}: {len(kept)} keys would be left, its threshold is {threshold}",
                hint="add a key in the same step, for example with --replace NEW.pub",
            )
        keys |= added
        roles[name] = Role(tuple(sorted(kept)), threshold)
    used = {key for role in roles.values() for key in role.keys}
    following = TrustedRoot(
        {name: public for name, public in keys.items() if name in used},
        roles,
        current.version + 1,
        current.channel,
        now,
        _expiry(now, days),
    )
    with storage_errors(folder / NEXT_NAME):
        create_file(folder / NEXT_NAME, following.to_bytes())
    return following


def sign_next(folder: Path, keys: Sequence[Ed25519PrivateKey]) -> Signing:
    """Add signatures to the next root; when they are enough, it becomes the root of the folder.

    Raises:
        ConfigError: no root is waiting, a key is a root key of neither, more signatures than a root
            carries, or the signatures of the present root, which devices need, are not in the folder.
        BundleError: one of its children, if a file is damaged.
        StorageError: the folder cannot be written.
    """
    current, following = read_root(folder), read_root(folder, NEXT_NAME)
    data = following.to_bytes()
    if current == following:  # killed after the last step but one
        withdraw(folder)
        return _progress(current, following, {*current.roles[ROOT].keys})
    if current.version > 1 and not (folder / ROOT_SIGNATURES_NAME).exists():
        raise ConfigError(
            f"{folder}: no {ROOT_SIGNATURES_NAME}, without which devices cannot follow",
            hint="carry all files root*.json along when another machine signs, and back",
        )
    known = {*current.roles[ROOT].keys, *following.roles[ROOT].keys}
    for key in keys:
        if key_id(public_bytes(key)) not in known:
            raise ConfigError(
                f"key {key_id(public_bytes(key))[:16]}: a root key of neither root, so its "
                "signature would not count"
            )
    given = _read(folder / NEXT_SIGNATURES_NAME, MAX_SIGNATURE_BYTES)
    before = _valid(parse_signatures(given) if given is not None else {}, data, current, following)
    added = parse_signatures(sign(ROOT_DOMAIN, data, keys)) if keys else {}
    merged = {name: value.hex() for name, value in {**before, **added}.items()}
    if len(merged) > MAX_KEYS:
        raise ConfigError(
            f"{len(merged)} signatures; a root carries at most {MAX_KEYS}",
            hint="sign with no more keys than are needed; if it needs more, change fewer root keys at "
            "once",
        )
    signatures = canonical.encode({"signatures": merged})
    with storage_errors(folder):
        write_file(folder / NEXT_SIGNATURES_NAME, signatures)
    progress = _progress(current, following, set(merged))
    if progress.done:
        rotate(current, data, signatures)  # whatever is wrong is found before any device sees it
        _place(folder, current, data, signatures)
    return progress


def find_key(root: TrustedRoot, word: str) -> str:
    """The whole id of a key of the root, from its first digits (8 at least). Raises ConfigError."""
    found = [name for name in root.keys if name.startswith(word)]
    if len(word) < 8 or len(found) != 1:
        raise ConfigError(
            f"key {word[:64]}: {len(found)} keys of the root begin so, expected one, by at least 8 "
            "digits",
            hint="proper-coordinator root show lists them",
        )
    return found[0]


def _valid(given: Mapping[str, bytes], data: bytes, *roots: TrustedRoot) -> dict[str, bytes]:
    """The signatures over `data` by root keys; those left of another proposal are not among them."""
    public = {name: root.keys[name] for root in roots for name in root.roles[ROOT].keys}
    valid = {}
    for name in given.keys() & public.keys():
        with suppress(BundleSignatureError):
            check_signature(public[name], given[name], ROOT_DOMAIN + data, where=NEXT_NAME)
            valid[name] = given[name]
    return valid


def _progress(current: TrustedRoot, following: TrustedRoot, signed: set[str]) -> Signing:
    one, other = (
        max(0, root.threshold - len(signed & set(root.roles[ROOT].keys)))
        for root in (current, following)
    )
    return Signing(following, one, other)


def _place(folder: Path, current: TrustedRoot, data: bytes, signatures: bytes) -> None:
    """Keep the present root under its number, then put the next one in its place."""
    newest = current.version + 1
    old_signatures = _read(folder / ROOT_SIGNATURES_NAME, MAX_SIGNATURE_BYTES)
    with storage_errors(folder):
        root_name, signatures_name = root_names(current.version, newest)
        if not (folder / root_name).exists():
            # A killed first attempt has done this already, and replaced the signatures since.
            if old_signatures is not None:
                write_file(folder / signatures_name, old_signatures)
            write_file(folder / root_name, current.to_bytes())
        write_file(folder / ROOT_SIGNATURES_NAME, signatures)
        write_file(folder / ROOT_NAME, data)
        withdraw(folder)


def withdraw(folder: Path) -> None:
    """Propose no next root any more. Raises StorageError."""
    with storage_errors(folder):
        (folder / NEXT_SIGNATURES_NAME).unlink(missing_ok=True)
        (folder / NEXT_NAME).unlink(missing_ok=True)


def _read(path: Path, limit: int) -> bytes | None:
    try:
        return read_bounded(path, limit)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise BundleFormatError(f"{path.name}: {error.strerror}, expected a file") from None


def _expiry(now: datetime, days: int) -> datetime:
    if not 1 <= days <= MAX_ROOT_DAYS:
        raise ConfigError(f"root: valid for {days} days, expected 1 to {MAX_ROOT_DAYS}")
    return now + timedelta(days=days)
