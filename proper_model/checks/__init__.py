"""Checks before anything is trained, signed or installed: is this base, this release usable?"""

from proper_model.checks.base import check_base, locate, read_config, read_tokenizer
from proper_model.checks.miniature import cut_depth
from proper_model.checks.outside_base import load_base
from proper_model.checks.release import check_content, check_files, check_installable

__all__ = [
    "check_base", "check_content", "check_files", "check_installable", "cut_depth", "load_base",
    "locate", "read_config", "read_tokenizer",
]
