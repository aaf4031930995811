"""Parameter counts of the stages, from sizes alone (docs/method.md 1.3).

They follow from the paper's 552M user parameters for 100 users and 4M for the LoRA-aware router,
and are asserted against built models.
"""

from __future__ import annotations

from dataclasses import dataclass

from proper_model.settings import EmbeddingTables, RouterSharing, RouterText, Structure


@dataclass(frozen=True)
class BaseSizes:
    """Hidden width d, feed-forward width f, blocks L."""

    d: int
    f: int
    layers: int


@dataclass(frozen=True)
class ParameterCounts:
    """Numbers of parameters by what trains them; `user_lora` and `user_embedding` are per user."""

    user_lora: int
    experts: int
    text_routers: int
    user_routers: int
    lora_routers: int
    user_embedding: int

    def stage2(self, users: int) -> int:
        """Everything stage 2 trains for `users` pooled users, embedding table included."""
        table = self.user_embedding * users
        return self.experts + self.text_routers + self.user_routers + table


def count_parameters(sizes: BaseSizes, structure: Structure) -> ParameterCounts:
    """Counts for gate, up (d -> f) and down (f -> d) in every block."""
    d, f, layers = sizes.d, sizes.f, sizes.layers
    n, r, e = structure.experts, structure.rank, structure.embedding_dim
    user_lora = r * (3 * d + 3 * f) * layers
    tied = structure.router_sharing is RouterSharing.TIED
    per_linear = n * e * 3 * layers if structure.router_user else 0
    one_table = structure.embedding_tables is EmbeddingTables.ONE
    return ParameterCounts(
        user_lora=user_lora,
        experts=n * user_lora,
        text_routers=0 if structure.router_text is RouterText.NONE else n * (2 * d + f) * layers,
        user_routers=n * e if tied else per_linear,
        lora_routers=n * (2 * f + d) * layers if structure.has_lora_router else 0,
        user_embedding=e if one_table else e * layers,
    )
