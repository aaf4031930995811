"""One save, as a program of its own, for faults to be injected into: FOLDER KEY_FILE PAYLOAD [alone].

Exit status as the command line's: 0, or the code of the error.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path

from client.vault.opening import KeyFile, open_vault
from proper_model.errors import ProperError

BEGIN = "/here-the-save-begins"


def main(folder: str, key: str, payload: str, alone: str = "") -> int:
    """Save once; what Python does before this is not of interest."""
    vault = open_vault(Path(folder), KeyFile(Path(key)))
    with suppress(FileNotFoundError):
        os.open(BEGIN, os.O_RDONLY)  # seen in the trace
    try:
        vault.write(payload.encode(), bundle_id="ef" * 32, alone=bool(alone))
    except ProperError as error:
        sys.stderr.write(f"{error.message}\n{error.hint}\n")
        sys.stderr.flush()
        return error.exit_code
    return 0


if __name__ == "__main__":
    os._exit(main(*sys.argv[1:]))  # nor is what it does at its end
