"""What each pooled phase depends on: the keys under which `phase_cache` finds results again.

A key names all that a phase's numbers follow from and nothing else, so that runs share what they can:
presets share stage 1, structures that differ in stage 3 only share stage 2, and arms share everything.
Each phase goes on from the one before, so its key holds that one's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from proper_model.settings import StageSettings, Structure, to_mapping

Key = dict[str, Any]
"""JSON-ready."""

# Raised whenever training changes what it computes, so that old cache entries are not used.
TRAINING_VERSION = 7
# What validation in stage 2 uses of the user settings: how embeddings are fitted.
FIT_SETTINGS = (
    "embedding_epochs",
    "embedding_learning_rate",
    "embedding_batch_size",
    "patience",
    "refit",
    "held_back_fraction",
    "min_items_to_train",
)
# Settings that are no part of stage 1: a name changes nothing, and only later stages, or devices
# alone, read the others.
NOT_IN_STAGE_1 = ("name", "base_weights", "retrieval_tokens", "privacy", "robust")
# What a private step follows from; delta and epsilon only said how much noise there is to be.
PRIVATE_SETTINGS = (
    "noise_multiplier",
    "sampling_rate",
    "clip_norm",
    "items_per_user",
    "freeze_a",
    "core",
    "reproducible",
)
PRIVATE_STAGE_1 = ("population_steps", "population_learning_rate")
NOT_IN_STAGE_2 = ("name", "user_routing", "detach_lora_router", "private_lora_router")
# What a common start follows from, of the calibration's settings.
START_SETTINGS = ("learning_rates", "start_rounds", "start_epochs")


@dataclass(frozen=True)
class PhaseInputs:
    """What the pooled stages of one run are trained from.

    Attributes:
        base, data: fingerprints of the base's weights and of the pooled users' tokens.
        grouped: fingerprint of whose tokens train stages 2 and 3a-3b, where that is not who trains
            stage 1.
        device, threads: kind of device and number of CPU threads; sums of floats depend on both.
    """

    base: str
    data: str
    structure: Structure
    settings: StageSettings
    seed: int
    device: str
    threads: int
    grouped: str | None = None

    def population_key(self) -> Key:
        """Stage 1. The cap on items counts too, as histories may be trained on."""
        return {
            **self._privacy(*PRIVATE_STAGE_1),
            **self._robust(),
            "version": TRAINING_VERSION,
            "base": self.base,
            "data": self.data,
            "seed": self.seed,
            "device": self.device,
            "threads": self.threads,
            "settings": {
                name: value
                for name, value in to_mapping(self.settings).items()
                if not isinstance(value, dict) and name not in NOT_IN_STAGE_1
            },
            "population": to_mapping(self.settings.population),
            "cap": self.settings.group.max_items_per_user,
        }

    def _privacy(self, *of_stages: str) -> Key:
        """Nothing where training is not private."""
        if self.settings.privacy is None:
            return {}
        own = to_mapping(self.settings.privacy)
        return {"privacy": {name: own[name] for name in (*PRIVATE_SETTINGS, *of_stages)}}

    def _robust(self) -> Key:
        """Nothing where every sample counts alike."""
        own = self.settings.robust
        return {} if own is None else {"robust": to_mapping(own)}

    def group_key(self) -> Key:
        """Stage 2: experts, user-aware routers and embeddings, over the merged base."""
        user = to_mapping(self.settings.user)
        return {
            **self.population_key(),
            **self._privacy(*PRIVATE_STAGE_1, "group_steps", "group_learning_rate"),
            "grouped": self.grouped,
            "base_weights": str(self.settings.base_weights),
            "group": to_mapping(self.settings.group),
            "fit": {name: user[name] for name in FIT_SETTINGS},
            "structure": {
                name: value
                for name, value in to_mapping(self.structure).items()
                if name not in NOT_IN_STAGE_2
            },
        }

    def router_key(self) -> Key:
        """Stages 3a and 3b: provisional LoRAs and the LoRA-aware router."""
        return {
            **self.group_key(),
            "router": to_mapping(self.settings.router),
            "user": to_mapping(self.settings.user),
            "routing": to_mapping(self.structure),
        }

    def starts_key(self) -> Key:
        """Common starts of private LoRAs, from pooled users who trained stage 2."""
        own = to_mapping(self.settings.calibration)
        return {**self.router_key(), "starts": {name: own[name] for name in START_SETTINGS}}

    def calibration_key(self, people: str) -> Key:
        """Calibration; `people` is the fingerprint of those who took no part before."""
        own = to_mapping(self.settings.calibration)
        return {**self.starts_key(), "calibration": own, "people": people}
