"""One person's whole model for other programs: PEFT, merged, GGUF, MLX."""

from proper_model.export.gguf_model import check_gguf_model, write_gguf_adapter, write_gguf_model
from proper_model.export.gguf_names import family_of
from proper_model.export.merged_model import (
    check_mergeable, in_dtype, stored_dtype, write_merged_folder, write_model_folder,
)
from proper_model.export.mlx_lora import mlx_adapter, mlx_prefix
from proper_model.export.peft_lora import PeftAdapter, SERVED_RANKS, joined_factors, peft_adapter
from proper_model.export.user_fold import FoldReport, UserFold, fold_release

__all__ = [
    "FoldReport", "PeftAdapter", "SERVED_RANKS", "UserFold", "check_gguf_model",
    "check_mergeable", "family_of", "fold_release", "in_dtype", "joined_factors", "mlx_adapter",
    "mlx_prefix", "peft_adapter", "stored_dtype", "write_gguf_adapter",
    "write_gguf_model", "write_merged_folder", "write_model_folder",
]
