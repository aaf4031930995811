"""Which equations a model uses (presets) and how it is trained (profiles)."""

from proper_model.settings import presets
from proper_model.settings.calibration import Calibrated, Calibration, uncalibrated, usual_preset
from proper_model.settings.presets import (
    EmbeddingSource, EmbeddingTables, RouterSharing, RouterText, Structure, UserRouting, preset,
)
from proper_model.settings.privacy import ItemPrivacy, PrivacySettings, check_private_structure
from proper_model.settings.profile import FFN_TARGETS, BaseWeights, StageSettings
from proper_model.settings.robust import RobustSettings
from proper_model.settings.settings_io import from_mapping, to_mapping
from proper_model.settings.shipped_profiles import load_profile, profile_names
from proper_model.settings.stage2_people import Stage2People

__all__ = [
    "FFN_TARGETS", "BaseWeights", "Calibrated", "Calibration", "EmbeddingSource", "EmbeddingTables",
    "ItemPrivacy", "PrivacySettings", "RobustSettings", "RouterSharing", "RouterText", "Stage2People",
    "StageSettings", "Structure", "UserRouting", "check_private_structure", "from_mapping", "load_profile",
    "preset", "presets", "profile_names", "to_mapping", "uncalibrated", "usual_preset",
]
