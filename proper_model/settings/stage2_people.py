"""Whose items train stage 2, and 3a-3b after it: a choice that every preset may be run with.

Stages 2 and 3 of the paper train on pooled users, and so does this project. The authors' released
code seems to train its group stage on the very people who are personalized afterwards
(docs/method.md 1.10); and a gain that remains when everybody's items are dealt out to the wrong
people was not personal. Results name the choice beside the split, unless it is the usual one.
"""

from __future__ import annotations

from enum import StrEnum


class Stage2People(StrEnum):
    """Whose items train stage 2."""

    POOLED = "pooled"
    EVERYBODY = "everybody"  # the test users' histories too, never their queries
    SHUFFLED = "shuffled"  # the pooled users' items, permuted across identities: a control

    @property
    def said(self) -> str | None:
        """How results name it; None for the usual one."""
        return {
            Stage2People.POOLED: None,
            Stage2People.EVERYBODY: "stage 2 with test users' histories",
            Stage2People.SHUFFLED: "stage 2 with shuffled identities",
        }[self]
