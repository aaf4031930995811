"""`proper serve` below the command line: a completion endpoint and a page for this machine only."""
