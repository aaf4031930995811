"""Where adapters attach: linears of every block of a dense decoder.

Stages 2 and 3 adapt `gate_proj`, `up_proj` and `down_proj` (PROPER A.3); methods to compare with may
adapt those of attention. The linears are found by name and type, so any Hugging Face causal LM with
that layout works without patching its code; fused linears and mixture-of-experts feed-forwards are
refused with what was found.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from proper_model.base.quantized import QuantizedLinear
from proper_model.errors import BaseModelError
from proper_model.settings.profile import FFN_TARGETS

_LAYER = re.compile(r"\.(\d+)\.")


@dataclass(frozen=True)
class Site:
    """One linear that gets adapters: full module path, block number, widths."""

    path: str
    layer: int
    d_in: int
    d_out: int


def find_sites(base: torch.nn.Module, targets: Sequence[str] = FFN_TARGETS) -> list[Site]:
    """All linears of `base` with these names, by default its feed-forward's, in module order.

    Raises BaseModelError if a block lacks one, or the base is none that PROPER adapts.
    """
    modules = dict(base.named_modules())
    _refuse_unsupported(modules)
    sites = []
    for path, module in modules.items():
        if path.rpartition(".")[2] not in targets:
            continue
        number = _LAYER.search(path)
        if not isinstance(module, torch.nn.Linear | QuantizedLinear) or number is None:
            raise BaseModelError(
                f"'{path}' is a {type(module).__name__}, expected torch.nn.Linear inside a block",
                hint="load the base unquantized and without other adapters; base_weights of a "
                "profile packs it afterwards",
            )
        sites.append(Site(path, int(number.group(1)), module.in_features, module.out_features))
    layers = {site.layer for site in sites}
    if not sites or len(sites) != len(targets) * len(layers):
        kind = "feed-forward linears" if tuple(targets) == FFN_TARGETS else "linears"
        raise BaseModelError(
            f"found {len(sites)} {kind} in {len(layers)} blocks, expected "
            f"{', '.join(targets)} in every block",
            hint="PROPER needs a decoder with a gated dense feed-forward and separate linears in "
            "attention (Llama, Qwen, Mistral, Gemma, SmolLM and relatives)",
        )
    return sites


def _refuse_unsupported(modules: dict[str, torch.nn.Module]) -> None:
    for path, module in modules.items():
        name = path.rpartition(".")[2]
        if name in ("gate_up_proj", "dense_h_to_4h_gated"):
            raise BaseModelError(
                f"the base fuses gate and up into '{path}'; PROPER adapts them as two linears",
                hint="use a base with separate gate_proj and up_proj, or split the fused weight",
            )
        if name in ("experts", "block_sparse_moe") or "SparseMoe" in type(module).__name__:
            raise BaseModelError(
                f"the base is itself a mixture of experts ('{path}'); PROPER needs a dense "
                "feed-forward",
                hint="use a dense base model",
            )
