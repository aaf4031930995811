"""The keys of a run on one machine: made once, with a root of their own, and found again.

    server/keys/root.pem      signs roots
    server/keys/release.pem   signs releases and latest.json
    server/root.json          what every device of the run pins

Nobody is asked for a passphrase, so that a run starts by itself; the keys of a population of real
devices are made by `proper-coordinator keys`, with the root keys offline. Runs prepared before roots
had roles have one key for both and go on with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from coordinator.keys import load_key, load_or_create_key
from proper_model.bundle.folder_names import ROOT_NAME
from proper_model.bundle.public_keys import key_id, public_bytes
from proper_model.bundle.trusted_root import LATEST, MAX_ROOT_BYTES, RELEASE, ROOT, TrustedRoot
from proper_model.errors import ConfigError
from proper_model.federation.run_plan import RunPlan
from proper_model.storage.durable import write_file
from proper_model.storage.files import make_private_folder, read_bounded

ROOT_KEY, RELEASE_KEY = "root.pem", "release.pem"
KEY_SUFFIX = ".pem"
KEYS_FOLDER = "keys"
RUN_ROOT_DAYS = 5 * 365


@dataclass(frozen=True)
class RunRoot:
    """What devices of a run pin.

    Attributes:
        root_bytes: contents of root.json.
        public_key: a key of its root role, in hex, by which a plan knows it.
    """

    root: TrustedRoot
    root_bytes: bytes
    public_key: str


def make_run_root(server: Path, *, now: datetime) -> RunRoot:
    """The root of a run, made if this is its first start; `server` is the run's `server` folder.

    Raises ConfigError if a key or the root cannot be read or written, BundleError if it is no root.
    """
    keys = make_private_folder(server / KEYS_FOLDER)
    if (keys / RELEASE_KEY).exists() and not (keys / ROOT_KEY).exists():
        key = load_key(keys / RELEASE_KEY)
        root = TrustedRoot.of([key])
        return RunRoot(root, root.to_bytes(), public_bytes(key).hex())
    # In this order: a run killed in between does not look like an old one.
    root_key = load_or_create_key(keys / ROOT_KEY)
    release_key = load_or_create_key(keys / RELEASE_KEY)
    data = read_run_root(server)
    if data is None:
        signers = ([release_key], 1)
        data = TrustedRoot.with_roles(
            {ROOT: ([root_key], 1), RELEASE: signers, LATEST: signers},
            created=now,
            expires=now + timedelta(days=RUN_ROOT_DAYS),
        ).to_bytes()
        write_file(server / ROOT_NAME, data)
    return RunRoot(TrustedRoot.from_bytes(data), data, public_bytes(root_key).hex())


def read_run_root(server: Path) -> bytes | None:
    """Contents of the run's root.json; None where there is none. Raises ConfigError."""
    try:
        return read_bounded(server / ROOT_NAME, MAX_ROOT_BYTES)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(f"{server / ROOT_NAME}: {error.strerror}") from None


def trusted_root(plan: RunPlan) -> TrustedRoot:
    """The root that the plan's devices pin."""
    data = read_run_root(plan.server_folder)
    if data is not None:
        return TrustedRoot.from_bytes(data)
    public = bytes.fromhex(plan.root_public_key)  # a run prepared before roots had roles
    return TrustedRoot.of([Ed25519PublicKey.from_public_bytes(public)])


def signing_keys(plan: RunPlan) -> list[Ed25519PrivateKey]:
    """The run's release keys. Raises ConfigError unless devices of the plan trust them."""
    folder = plan.server_folder / KEYS_FOLDER
    paths = sorted(path for path in folder.glob(f"*{KEY_SUFFIX}") if path.name != ROOT_KEY)
    keys = [load_key(path) for path in paths]
    root = trusted_root(plan)
    mine = [key for key in keys if key_id(public_bytes(key)) in root.roles[RELEASE].keys]
    known = {public.hex() for public in root.keys.values()}
    enough = root.are_enough(RELEASE, [key_id(public_bytes(key)) for key in mine])
    if plan.root_public_key not in known or not enough:
        raise ConfigError(
            f"{folder}: none of its {len(keys)} keys is one that the devices trust",
            hint="write the run's folder again with proper-sim prepare",
        )
    return mine
