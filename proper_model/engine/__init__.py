"""Many users in shared passes over the frozen base, and how much memory that takes."""

from proper_model.engine import item_training, pooled_settings, pooled_training, user_privacy
from proper_model.engine.checkpoint import (
    Checkpoint, Sealed, beside, load_checkpoint, save_checkpoint,
)
from proper_model.engine.cohort import Cohort
from proper_model.engine.folds import Fold, Samples, embedding_split, own_split, split_items
from proper_model.engine.judging import held_back_losses
from proper_model.engine.memory import STATES, free_bytes, manage_freed_memory, return_freed_memory
from proper_model.engine.memory_budget import memory_model, within
from proper_model.engine.trials import Trial, TrialSettings, fit_settings, lora_settings

__all__ = [
    "Checkpoint", "Cohort", "Fold", "STATES", "Samples", "Sealed", "Trial", "TrialSettings", "beside",
    "embedding_split", "fit_settings", "free_bytes", "held_back_losses", "item_training",
    "load_checkpoint", "lora_settings", "manage_freed_memory", "memory_model", "own_split",
    "pooled_settings", "pooled_training", "return_freed_memory", "save_checkpoint", "split_items", "user_privacy", "within",
]
