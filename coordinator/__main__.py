"""`python -m coordinator`: the program `proper-coordinator` without its script."""

from __future__ import annotations

from coordinator.cli import main

main()
