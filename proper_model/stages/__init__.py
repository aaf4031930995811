"""The stages of PROPER, one file each: 1 population, 2 group, 3a-3b lora_router, 3c private_lora."""

from proper_model.stages.group import first_embeddings, train_group
from proper_model.stages.lora_router import train_lora_router
from proper_model.stages.pooled_users import (
    Beside, PooledData, PooledUser, fingerprint_of, histories_of, pool, router_cohort,
    with_shuffled_identities,
)
from proper_model.stages.population import train_population
from proper_model.stages.private_lora import Factors, LoraFit, train_user_loras
from proper_model.stages.user_embedding import EmbeddingFit, fit_embeddings, published_embeddings

__all__ = [
    "Beside", "EmbeddingFit", "Factors", "LoraFit", "PooledData", "PooledUser", "fingerprint_of",
    "first_embeddings", "fit_embeddings", "histories_of", "pool", "published_embeddings",
    "router_cohort", "train_group", "train_lora_router", "train_population", "train_user_loras",
    "with_shuffled_identities",
]
