"""Prints the JSON schema of what the three programs print with `--json`: docs/json-schema.json.

`python docs/json_schema.py > docs/json-schema.json` writes it anew, `--markdown PROGRAM` prints the
tables of docs/json.md.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping

from client.commands.documents import DOCUMENTS as DEVICE
from coordinator.commands.documents import DOCUMENTS as COORDINATOR
from proper_model.json_output.schema import Documents, schema, tables
from simulations.setup.documents import DOCUMENTS as SIMULATIONS

PROGRAMS: Mapping[str, Documents] = {
    "proper": DEVICE,
    "proper-sim": SIMULATIONS,
    "proper-coordinator": COORDINATOR,
}


def main() -> None:
    """Print the schema, or the tables of one program."""
    parser = argparse.ArgumentParser(description="Print the JSON schema of every document.")
    parser.add_argument("--markdown", choices=PROGRAMS, metavar="PROGRAM", help="tables of one")
    program = parser.parse_args().markdown
    if program is None:
        print(json.dumps(schema(PROGRAMS), indent=1))
    else:
        print(tables(PROGRAMS[program]))


if __name__ == "__main__":
    main()
