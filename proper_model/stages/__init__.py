"""The stages of PROPER, one file each: 1 population, 2 group, 3a-3b lora_router, 3c private_lora."""

from proper_model.stages import (
    calibrated_lora, calibration, common_lora, inferred_embedding, item_gradients, pooled_users, private_items,
)
from proper_model.stages.episodic_group import check_people, train_group_episodic
from proper_model.stages.group import first_embeddings, train_group
from proper_model.stages.lora_router import train_lora_router
from proper_model.stages.pooled_users import Beside, PooledData, PooledUser, pool, router_cohort
from proper_model.stages.population import train_population
from proper_model.stages.private_lora import Factors, LoraFit, LoraTrials, train_user_loras
from proper_model.stages.user_embedding import EmbeddingFit, fit_embeddings, published_embeddings

__all__ = [
    "Beside", "EmbeddingFit", "Factors", "LoraFit", "LoraTrials", "PooledData", "PooledUser",
    "calibrated_lora", "calibration", "check_people", "common_lora", "first_embeddings", "fit_embeddings",
    "inferred_embedding", "item_gradients", "pool", "pooled_users", "private_items", "published_embeddings",
    "router_cohort", "train_group", "train_group_episodic", "train_lora_router", "train_population",
    "train_user_loras",
]
