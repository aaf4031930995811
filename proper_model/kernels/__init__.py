"""Tensor routines for packed rows: layout, packing, attention, dropout, low-rank products."""
