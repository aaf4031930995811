"""What leaks: canaries in everything that a client sends or writes.

`canaries` are planted, `scanner` finds them in every form, `scanned_runs` makes what is scanned, in processes
that `witness` listens to, one of them `client_life`; `egress` says what leaked.
"""

__all__ = ["canaries", "commands", "scanner"]
