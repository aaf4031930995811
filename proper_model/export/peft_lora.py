"""One user's whole personal model as one standard PEFT LoRA, for PeftModel and LoRA servers.

Where the release refers to a public base, the population LoRA joins the user's, so that the adapter
applies to the public base itself (PROPER eq. 6, 11 and 13):

    W_0 x + s_p B_p A_p x + B_u A_u x  =  W_0 x + [s_p B_p, B_u] [A_p; A_u] x

Where the release embeds its base, the population is merged in it already and the adapter applies to
the bundle's own base. LoRA servers want one rank for all linears, from a short list, and a scale
they need not guess: factors are padded with zero rows and columns, and `lora_alpha = r`.

Letters: r rank, i input width, o output width.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from proper_model.base.config import OWN_DECODER
from proper_model.base.population_lora import adapter_config
from proper_model.errors import ExportError
from proper_model.export.user_fold import UserFold
from proper_model.release.contents import Release

# Values that vLLM's --max-lora-rank takes (vllm/config/lora.py, MaxLoRARanks), 1 left out.
SERVED_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)

_FACTOR = re.compile(r"base_model\.model\.(?P<path>.+)\.lora_(?P<factor>[AB])\.weight")

Factors = tuple[Tensor, Tensor]

_PEFT = "base_model.model."


@dataclass(frozen=True)
class PeftAdapter:
    """An adapter as PEFT has it on disk.

    Attributes:
        tensors: `base_model.model.<path>.lora_A.weight` [r, i] and `lora_B` [o, r].
        config: content of `adapter_config.json`.
        rank: r, the same for every linear.
        natural_rank: the largest rank before padding.
    """

    tensors: Mapping[str, Tensor]
    config: Mapping[str, Any]
    rank: int
    natural_rank: int


def peft_adapter(
    release: Release,
    fold: UserFold,
    *,
    base_name: str,
    revision: str | None = None,
    dtype: torch.dtype = torch.float32,
    language_alone: bool = False,
) -> PeftAdapter:
    """The fold, joined with the population LoRA where the release ships it apart.

    Args:
        base_name: what the adapter applies to: the public base's name, or a name for the base that
            the release embeds.
        revision: of a public base.
        dtype: of the tensors; only float32 and wider keep the promise of equal logits.
        language_alone: for the language model alone, where the public base reads images too.

    Raises ExportError: a dtype adapters are not stored in, one too narrow for a factor's values, or
    a population LoRA that is not under PEFT's names.
    """
    if dtype not in DTYPES:
        names = ", ".join(str(known).removeprefix("torch.") for known in DTYPES)
        raise ExportError(f"adapters are not stored in {dtype}; expected one of {names}")
    joined = joined_factors(release, fold)
    natural = natural_rank(joined)
    rank = next((served for served in SERVED_RANKS if served >= natural), natural)
    tensors = {}
    for path, factors in padded(joined, rank).items():
        for factor, tensor in zip("AB", factors, strict=True):
            name = f"{_PEFT}{path}.lora_{factor}.weight"
            tensors[name] = narrowed(tensor, dtype, name)
    targets = {path.rpartition(".")[2] for path in joined}
    config = adapter_config(base_name, targets, rank=rank, alpha=rank, dropout=0.0)
    adapter = PeftAdapter(tensors, {**config, "revision": revision}, rank, natural)
    whole = release.population and not language_alone
    return named_from_outside(release.base, adapter) if whole else adapter


def joined_factors(release: Release, fold: UserFold) -> dict[str, Factors]:
    """Path to A `[r, i]` and B `[o, r]` over the base that the release refers to or embeds.

    In float64 on the CPU, sorted by path; the scale is in B. Raises ExportError if the population
    LoRA is not under PEFT's names.
    """
    parts: dict[str, list[Factors]] = {}
    for path, factors in (*_population(release).items(), *fold.factors.items()):
        parts.setdefault(path, []).append(factors)
    return {
        path: (torch.cat([a for a, _ in pieces]), torch.cat([b for _, b in pieces], dim=1))
        for path, pieces in sorted(parts.items())
    }


def natural_rank(factors: Mapping[str, Factors]) -> int:
    """The largest rank of any linear."""
    return max(len(a) for a, _ in factors.values())


def padded(factors: Mapping[str, Factors], rank: int) -> dict[str, Factors]:
    """The same updates, every linear's in `rank`: formats have one rank and one scale for all."""
    pad = torch.nn.functional.pad
    return {
        path: (pad(a, (0, 0, 0, rank - len(a))), pad(b, (0, rank - len(a))))
        for path, (a, b) in factors.items()
    }


def _population(release: Release) -> dict[str, Factors]:
    """Path to (A, s_p B) in float64; empty where the release embeds its base."""
    found: dict[str, dict[str, Tensor]] = {}
    for name, tensor in release.population.items():
        match = _FACTOR.fullmatch(name)
        if match is None:
            raise ExportError(
                "the release's population LoRA has a tensor that is no LoRA factor of PEFT",
                hint="export from the release as it was installed",
            )
        found.setdefault(match["path"], {})[match["factor"]] = tensor.double().cpu()
    settings = release.settings.population
    scale = settings.alpha / settings.rank
    return {path: (pair["A"], pair["B"] * scale) for path, pair in found.items()}


def narrowed(tensor: Tensor, dtype: torch.dtype, name: str) -> Tensor:
    """`tensor` in `dtype`, refused where a value became infinite."""
    narrow = tensor.to(dtype).contiguous()
    if not bool(torch.isfinite(narrow).all()):
        raise ExportError(
            f"'{name}' holds values that {str(dtype).removeprefix('torch.')} cannot",
            hint="export in format peft, which stores float32",
        )
    return narrow


def is_part(base: Any) -> bool:
    """Whether a loaded base is the language model of a larger checkpoint that it will be applied to.

    PROPER loads the language model alone. Who loads the public checkpoint in full finds the same
    linears further down, and others of the same names in its vision or sound part.
    """
    return bool(getattr(base, "outer_path", OWN_DECODER) != OWN_DECODER)


def named_from_outside(base: Any, adapter: PeftAdapter) -> PeftAdapter:
    """The adapter as PEFT loads it over the checkpoint that `base` was read from."""
    if not is_part(base):
        return adapter
    outer = base.outer_path
    tensors = {
        f"{_PEFT}{outer}{name.removeprefix(_PEFT + OWN_DECODER)}": tensor
        for name, tensor in adapter.tensors.items()
    }
    # Whole paths: the last names alone would also match the linears of other parts.
    targets = sorted({name.removeprefix(_PEFT).partition(".lora_")[0] for name in tensors})
    return dataclasses.replace(
        adapter, tensors=tensors, config={**adapter.config, "target_modules": targets}
    )
