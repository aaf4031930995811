"""Which settings are run, the most important first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.contenders.workload import Lengths, Workload

# By size, in the order of their importance: how many users train together. The first is the main one.
USERS: dict[str, tuple[int, ...]] = {
    "7b": (64, 32, 128),
    "1b": (128, 32, 256),
    "135m": (256, 32, 128),
}
FEW = (8,)  # of a base that is no GPU's
DROPOUT = 0.05  # of ragged users, as profiles have it


@dataclass(frozen=True)
class Planned:
    """One setting to come; `rivals`: whether those who train one user after another take part."""

    work: Workload
    dropout: float
    rivals: bool


def planned(
    sizes: Sequence[str], *, users: Sequence[int], samples: int, tokens: int, seed: int
) -> list[Planned]:
    """Every size with its main number of users, alike and then ragged, then other numbers of users.

    The last without rivals, whose rate does not depend on how many users there are.
    `users`: instead of those of USERS.
    """
    order = [*(size for size in USERS if size in sizes), *(s for s in sizes if s not in USERS)]
    counts = {size: tuple(users) or USERS.get(size, FEW) for size in dict.fromkeys(order)}

    def one(size: str, count: int, lengths: Lengths) -> Workload:
        return Workload(size, count, samples, tokens, lengths, seed)

    alike = [Planned(one(size, main[0], "fixed"), 0.0, True) for size, main in counts.items()]
    ragged = [Planned(one(size, main[0], "ragged"), DROPOUT, True) for size, main in counts.items()]
    others = [
        Planned(one(size, count, "fixed"), 0.0, False)
        for size, main in counts.items()
        for count in main[1:]
    ]
    return [*alike, *ragged, *others]
