"""The stages of PROPER, one file each: 1 population, 2 group, 3a-3b lora_router, 3c private_lora."""

from proper_model.stages.calibrated_lora import Planned, plan_trials, train_calibrated
from proper_model.stages.calibration import calibrate, schedule
from proper_model.stages.common_lora import common_start
from proper_model.stages.group import first_embeddings, train_group
from proper_model.stages.lora_router import train_lora_router
from proper_model.stages.pooled_users import Beside, PooledData, pool, router_cohort
from proper_model.stages.population import train_population
from proper_model.stages.private_lora import Factors, LoraFit, LoraTrials, train_user_loras
from proper_model.stages.user_embedding import EmbeddingFit, fit_embeddings, published_embeddings

__all__ = [
    "Beside", "EmbeddingFit", "Factors", "LoraFit", "LoraTrials", "Planned", "PooledData",
    "calibrate", "common_start", "first_embeddings", "fit_embeddings", "plan_trials", "pool",
    "published_embeddings", "router_cohort", "schedule", "train_calibrated", "train_group",
    "train_lora_router", "train_population", "train_user_loras",
]
