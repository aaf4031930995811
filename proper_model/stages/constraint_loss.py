"""The constraint loss that keeps users' routing apart (PROPER eq. 9).

    L_c = sum_{u != v} cos(w(x, u), w(x, v))                  (9)  made small, beside L_CE

`pair_loss` is this literally: the same x routed for K other users. `RoutingMemory` is the aggregate
form. With unit vectors `v_u = w_u / |w_u|`

    sum_{u != v} cos(w_u, w_v) = |sum_u v_u|^2 - U,

so one N-vector a router stands for all other users: the sum of the running means of their `v_u`.
`ConstraintObserver` collects either form over all routers of a forward pass. Numbers that compare the
two: docs/method.md 1.6.

Letters: S routers (sites), B rows, R routed vectors, U users, N experts, K other users.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from proper_model.kernels.dropout import mix_seed
from proper_model.kernels.layout import mean_by_row
from proper_model.kernels.packing import Batch
from proper_model.settings.presets import Constraint

# Names the draw of other users among those that a row's seed makes; sites are numbered from 0.
PAIR_DRAW = -1


def pair_loss(weights: Tensor, others: Tensor) -> Tensor:
    """Mean cosine of each routed vector [R, N] to K other users' at the same x [K, R, N]: [R]."""
    # Eq. 9: einsum("rn,krn->kr", v_u, v_v) of unit vectors, mean over k.
    return F.cosine_similarity(weights[None], others, dim=-1).mean(0)


class RoutingMemory:
    """Running mean of every pooled user's unit routing vector, one a router.

    A step's passes all read the means as they were before it; what they `collect` moves the means
    once, in `commit`. So neither depends on how memory cut the step into passes.

    Attributes:
        mean: `[S, U, N]`, zero until a user is seen; never carries gradient.
        seen: `[U]` bool.
    """

    def __init__(
        self,
        sites: int,
        users: int,
        experts: int,
        momentum: float = 0.9,  # open: the paper has no running means
        *,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.mean = torch.zeros(sites, users, experts, dtype=dtype)
        self.seen = torch.zeros(users, dtype=torch.bool)
        self.momentum = momentum
        # By router: users [B] and unit vectors [B, N] of every pass of the running step.
        self._collected: dict[int, list[tuple[Tensor, Tensor]]] = {}

    def tensors(self) -> dict[str, Tensor]:
        """What a resumed run needs, by name."""
        return {"memory": self.mean, "seen": self.seen}

    def loss(self, site: int, weights: Tensor, rows: Tensor, slots: Tensor) -> Tensor:
        """Eq. 9, `v_u(x) . (m - m_u) / (U - 1)`, of every row, mean over its routed vectors: [B].

        Routed vectors are [R, N], of rows [R]; `slots [B]` is the user of every row; m is the sum of
        the users' means m_u. U counts the users seen so far; before a second one is seen the loss is
        zero.
        """
        unit = F.normalize(weights, dim=-1)  # v_u(x), [R, N]
        memory = self.mean[site].to(weights)  # [U, N]
        others = memory.sum(0) - memory[slots]  # [B, N]
        seen = self.seen.sum() - self.seen[slots.cpu()].long()  # other users, [B]
        others = others / seen.clamp(min=1).to(others)[:, None]
        cosines = torch.einsum("rn,rn->r", unit, others[rows])  # eq. 9
        return mean_by_row(cosines[:, None], rows, len(slots))[:, 0]

    @torch.no_grad()
    def collect(self, site: int, weights: Tensor, rows: Tensor, slots: Tensor) -> None:
        """Remember a pass's unit vectors [R, N] of the users in `slots [B]` until `commit`."""
        row_mean = mean_by_row(F.normalize(weights, dim=-1), rows, len(slots)).to(self.mean)
        self._collected.setdefault(site, []).append((slots.cpu(), row_mean))

    def discard(self) -> None:
        """Forget what was collected: the step did not happen."""
        self._collected = {}

    @torch.no_grad()
    def commit(self) -> None:
        """Move the means of the step's users towards their rows' mean, of all passes together."""
        for site, parts in self._collected.items():
            owners, where = torch.cat([slots for slots, _ in parts]).unique(return_inverse=True)
            fresh = mean_by_row(torch.cat([units for _, units in parts]), where, len(owners))
            keep = self.momentum * self.seen[owners].to(fresh)[:, None]  # 0 for a new user
            self.mean[site, owners] = keep * self.mean[site, owners] + (1 - keep) * fresh
        for parts in self._collected.values():
            for slots, _ in parts:
                self.seen[slots] = True
        self._collected = {}


class ConstraintObserver:
    """The constraint loss over all routers of one forward pass (eq. 9); see `Pass.observer`."""

    def __init__(
        self, form: Constraint, memory: RoutingMemory, batch: Batch, *, users: int, pairs: int
    ) -> None:
        self.form, self.memory, self.batch = form, memory, batch
        assert batch.seeds is not None
        # Drawn by the row's own seed: they do not depend on the other rows of the batch.
        draws = [torch.Generator().manual_seed(mix_seed(s, PAIR_DRAW)) for s in batch.seeds]
        drawn = torch.stack(
            [torch.randint(1, max(users, 2), (pairs,), generator=draw) for draw in draws]
        ).to(batch.slots.device)
        self.others = (batch.slots[:, None] + drawn) % users  # another user, where there is one
        self.terms: list[Tensor] = []  # [B] of every router

    def __call__(
        self, site: int, weights: Tensor, rows: Tensor, others: Callable[[Tensor], Tensor]
    ) -> None:
        slots = self.batch.slots
        if self.form is Constraint.PAIRS:
            cosines = pair_loss(weights, others(self.others))
            self.terms.append(mean_by_row(cosines[:, None], rows, len(slots))[:, 0])
        else:
            self.terms.append(self.memory.loss(site, weights, rows, slots))
            self.memory.collect(site, weights.detach(), rows, slots)

    def loss(self) -> Tensor:
        """Every row's mean over routers, [B]."""
        return torch.stack(self.terms).mean(0)
