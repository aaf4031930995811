"""The constraint loss that keeps users' routing apart (PROPER eq. 9).

`L_c = sum_{u != v} cos(w_u, w_v)`, made small. With unit vectors `v_u = w_u / |w_u|`

    sum_{u != v} cos(w_u, w_v) = |sum_u v_u|^2 - U,

so only one N-vector a router is needed, never the other users' data. `RoutingMemory` keeps the
running mean of `v_u` per router and user and turns that into a loss for a batch of any users
(aggregate form). `pair_loss` is the literal form: the same x routed for K other users.

Letters: S routers (sites), B rows, R routed vectors, U users, N experts, K other users.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def pair_loss(weights: Tensor, others: Tensor) -> Tensor:
    """Mean cosine of routed vectors [R, N] to K other users' at the same x [K, R, N]."""
    return F.cosine_similarity(weights[None], others, dim=-1).mean()


class RoutingMemory:
    """Running mean of every pooled user's unit routing vector, one a router.

    Attributes:
        mean: `[S, U, N]`, zero until a user is seen; never carries gradient.
        seen: `[U]` bool.
    """

    def __init__(self, sites: int, users: int, experts: int, momentum: float = 0.9) -> None:
        self.mean = torch.zeros(sites, users, experts)
        self.seen = torch.zeros(users, dtype=torch.bool)
        self.momentum = momentum

    def loss(self, site: int, weights: Tensor, rows: Tensor, slots: Tensor) -> Tensor:
        """`v_u(x) . (m - m_u) / (U - 1)`, mean over routed vectors [R, N] of rows [R]. Scalar.

        `slots [B]` is the user of every row. U counts the users seen so far; before a second one
        is seen the loss is zero.
        """
        unit = F.normalize(weights, dim=-1)
        memory = self.mean[site].to(weights)
        others = memory.sum(0) - memory[slots]  # [B, N]
        seen = self.seen.sum() - self.seen[slots.cpu()].long()  # other users, [B]
        others = others / seen.clamp(min=1).to(others)[:, None]
        return torch.einsum("kn,kn->k", unit, others[rows]).mean()

    @torch.no_grad()
    def update(self, site: int, weights: Tensor, rows: Tensor, slots: Tensor) -> None:
        """Move the means of the users in `slots [B]` towards this batch's unit vectors [R, N]."""
        row_mean = mean_by_row(F.normalize(weights, dim=-1), rows, len(slots)).to(self.mean)
        owners = slots.cpu()
        for user in sorted(set(owners.tolist())):
            fresh = row_mean[(owners == user).to(row_mean.device)].mean(0)
            first = not bool(self.seen[user])
            keep = 0.0 if first else self.momentum
            self.mean[site, user] = keep * self.mean[site, user] + (1 - keep) * fresh

    def mark_seen(self, slots: Tensor) -> None:
        """Call once a step, after all routers were updated."""
        self.seen[slots.cpu()] = True


def mean_by_row(values: Tensor, rows: Tensor, count: int) -> Tensor:
    """Means of [R, N] over the entries of each of `count` rows: [count, N]."""
    sums = values.new_zeros(count, values.shape[1]).index_add(0, rows, values)
    entries = values.new_zeros(count).index_add(0, rows, torch.ones_like(values[:, 0]))
    return sums / entries[:, None]
