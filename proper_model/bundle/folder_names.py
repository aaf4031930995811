"""Names in a release folder, which a publisher writes and a device reads.

    v00000001/                     one bundle a version, never changed
    latest.json                    the signed statement of which version is the newest
    root.json                      the newest trusted root of the population
    root.signatures.json           signatures that lead to it from the root before
    root-2.json, root-2.signatures.json ...   the roots in between, once there are more than two

Source: docs/bundle-format.md sections 3 and 8.
"""

from __future__ import annotations

import re

LATEST_NAME = "latest.json"
MAX_LATEST_BYTES = 4096
ROOT_NAME = "root.json"
ROOT_SIGNATURES_NAME = "root.signatures.json"

# What devices fetch; nothing else in the folder is for them.
PUBLIC_NAME = re.compile(r"v[0-9]{8,16}|latest\.json|root(-[0-9]+)?(\.signatures)?\.json")


def version_folder(version: int) -> str:
    """Name of the folder of one version."""
    return f"v{version:08d}"


def root_names(version: int, newest: int) -> tuple[str, str]:
    """Files of the root of this version and of its signatures; `newest` is that of root.json."""
    if version == newest:
        return ROOT_NAME, ROOT_SIGNATURES_NAME
    return f"root-{version}.json", f"root-{version}.signatures.json"
