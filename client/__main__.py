"""`python -m client`: the program `proper` without its script."""

from __future__ import annotations

from client.cli import main

main()
