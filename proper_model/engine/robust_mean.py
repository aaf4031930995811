"""A step's gradient as a mean over its users, so that no user moves what all share at will.

Of the U users with rows in a step, g_u is the gradient of the mean loss over u's rows, over all shared
parameters together. With m the median of their lengths |g_u|,

    c_u = g_u min(1, clip m / |g_u|)
    g   = mean over users of c_u, of every number the k = floor(trim U) largest and smallest left out

(norm bounding, arXiv 1911.07963; coordinate-wise trimmed mean, arXiv 1803.01498). However many items
somebody gives, a step counts them as one user. Parameters that are one user's own, such as rows of a
table of embeddings, get the sum that they always got: no other user is in it.

All g_u of a step are held at once, and every user is a pass of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

import torch
from torch import Tensor

from proper_model.engine.training_loop import Row
from proper_model.settings.robust import RobustSettings


def by_user(rows: Sequence[Row]) -> Iterator[list[Row]]:
    """A step's rows, those of one user after another's, in the order of users."""
    for _, own in groupby(sorted(rows, key=lambda row: row.slot), key=lambda row: row.slot):
        yield list(own)


class RobustMean:
    """Takes up users' gradients one after another, and writes their mean.

    Args:
        shared: what all users train; a user's length is over all of them together.
        personal: what is one user's own.
    """

    def __init__(
        self, shared: Sequence[Tensor], personal: Sequence[Tensor], settings: RobustSettings
    ) -> None:
        self.shared, self.personal, self.settings = list(shared), list(personal), settings
        self.users: list[list[Tensor]] = []
        self.sums = [torch.zeros_like(p) for p in self.personal]

    @torch.no_grad()
    def take(self, weight: float) -> None:
        """Take up what stands in `grad`, and clear it.

        Args:
            weight: what makes of it the gradient of the user's mean loss.
        """
        found = [torch.zeros_like(p) if p.grad is None else p.grad * weight for p in self.shared]
        self.users.append(found)
        for total, p in zip(self.sums, self.personal, strict=True):
            if p.grad is not None:
                total += p.grad
        for p in (*self.shared, *self.personal):
            p.grad = None

    @torch.no_grad()
    def write(self) -> None:
        """Write the mean into `grad` of everything shared, and the sums into that of the rest."""
        factors = self._factors()
        count = len(self.users)
        out = int(self.settings.trim * count)
        for place, p in enumerate(self.shared):
            stack = torch.stack([own[place] for own in self.users])
            stack *= factors.to(stack).view(-1, *[1] * p.dim())
            if out:
                stack = stack.sort(dim=0).values[out : count - out]
            p.grad = stack.mean(0)
        for total, p in zip(self.sums, self.personal, strict=True):
            p.grad = total

    def _factors(self) -> Tensor:
        """By what every user's gradient is multiplied, [U]."""
        squares = [sum(g.double().square().sum() for g in own) for own in self.users]
        lengths = torch.stack([torch.as_tensor(square).cpu() for square in squares]).sqrt()
        if self.settings.clip == 0:
            return torch.ones_like(lengths)
        bound = self.settings.clip * lengths.median()
        return (bound / lengths.clamp(min=torch.finfo(lengths.dtype).tiny)).clamp(max=1.0)
