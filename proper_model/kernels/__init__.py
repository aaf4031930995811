"""Tensor routines for packed rows: layout, packing, attention, dropout, low-rank products."""

from proper_model.kernels.dropout import mix_seed
from proper_model.kernels.packing import Encoded

__all__ = ["Encoded", "mix_seed"]
