"""Tensor routines for packed rows: layout, packing, attention, dropout, low-rank products."""

from proper_model.kernels.dropout import mix_seed
from proper_model.kernels.layout import Layout
from proper_model.kernels.ops import Backend
from proper_model.kernels.packing import Batch, Encoded, budget_chunks

__all__ = ["Backend", "Batch", "Encoded", "Layout", "budget_chunks", "mix_seed"]
