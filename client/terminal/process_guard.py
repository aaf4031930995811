"""What keeps a private program's memory and files to its owner.

With the vault open, key, history and adapter lie in this process's memory: a crash must not write
them to a core file, and no other process of the same user should be able to read them.
Source: docs/security.md 2 ("same-device user").
"""

from __future__ import annotations

import ctypes
import os
import sys
from contextlib import suppress

PR_SET_DUMPABLE = 4  # linux/prctl.h


def protect_process() -> None:
    """New files are this user's alone, and there are no core files; as far as the system allows."""
    os.umask(0o077)
    if sys.platform == "win32":  # neither limits nor core files of this kind
        return
    import resource

    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
