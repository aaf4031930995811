"""Checks before anything is trained, signed or installed: is this base, this release usable?"""

from proper_model.checks.base import FoundBase, check_base, find_base, locate
from proper_model.checks.gguf_base import base_beside, is_gguf, write_gguf_base
from proper_model.checks.miniature import cut_depth
from proper_model.checks.outside_base import load_base
from proper_model.checks.release import check_content, check_files, check_installable
from proper_model.checks.traps import check_training, check_weights

__all__ = [
    "FoundBase", "base_beside", "check_base", "check_content", "check_files", "check_installable",
    "check_training", "check_weights", "cut_depth", "find_base", "is_gguf", "load_base", "locate",
    "traps", "write_gguf_base",
]
