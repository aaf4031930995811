"""Every error has an exit code of its own, and docs/exit-codes.md tells all of them."""

from __future__ import annotations

import re
from pathlib import Path

from proper_model import errors

KINDS = {
    kind.__name__: kind.exit_code
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, errors.ProperError)
}


def test_no_two_kinds_share_a_code() -> None:
    assert len(set(KINDS.values())) == len(KINDS) > 20
    # 1 is kept for faults of the program, 2 is the command line parser's.
    assert min(KINDS.values()) > 2


def test_the_table_holds_every_kind(repository: Path) -> None:
    text = (repository / "docs" / "exit-codes.md").read_text()
    told = re.findall(r"^\| (\d+) \| `(\w+)` \| \S.*\|$", text, re.MULTILINE)
    assert {name: int(code) for code, name in told} == KINDS
