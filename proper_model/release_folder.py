"""Names in a release folder, which a publisher writes and a device reads.

    v00000001/                     one bundle a version, never changed
    latest.json                    version and bundle id of the newest one; unsigned, a pointer only
    root.json                      the newest trusted root of the population
    root.signatures.json           signatures that lead to it from the root before
    root-2.json, root-2.signatures.json ...   the roots in between, once there are more than two

Source: docs/bundle-format.md sections 3 and 8.
"""

from __future__ import annotations

from proper_model import canonical
from proper_model.errors import BundleFormatError

LATEST_NAME = "latest.json"
MAX_LATEST_BYTES = 4096
ROOT_NAME = "root.json"
ROOT_SIGNATURES_NAME = "root.signatures.json"


def version_folder(version: int) -> str:
    """Name of the folder of one version."""
    return f"v{version:08d}"


def root_names(version: int, newest: int) -> tuple[str, str]:
    """Files of the root of this version and of its signatures; `newest` is that of root.json."""
    if version == newest:
        return ROOT_NAME, ROOT_SIGNATURES_NAME
    return f"root-{version}.json", f"root-{version}.signatures.json"


def latest_to_bytes(version: int, bundle_id: str) -> bytes:
    """Contents of latest.json."""
    return canonical.encode({"version": version, "bundle_id": bundle_id})


def parse_latest(data: bytes) -> tuple[int, str]:
    """Version and bundle id of latest.json.

    Raises:
        BundleFormatError: it is damaged.
    """
    value = canonical.decode(data, where=LATEST_NAME)
    fields = value if isinstance(value, dict) else {}
    version, bundle_id = fields.get("version"), fields.get("bundle_id")
    if type(version) is not int or version < 1 or not isinstance(bundle_id, str):
        raise BundleFormatError(f"{LATEST_NAME}: expected version and bundle_id")
    return version, bundle_id
