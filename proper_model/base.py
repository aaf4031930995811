"""Loading a base model and telling bases apart.

A base is a folder or a hub id; weights are read from safetensors only and no code from the hub is
run. The fingerprint hashes every tensor, so that caches, bundles and adapters name exactly the
weights they belong to.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch

from proper_model.errors import BaseModelError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}


def compute_dtype(name: str, device: torch.device) -> torch.dtype:
    """The dtype a profile's `dtype` stands for on a device: `auto` is bf16 on CUDA, else fp32."""
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    return DTYPES[name]


def default_device() -> torch.device:
    """The accelerator if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def load_base(
    name: str,
    *,
    revision: str | None = None,
    tokenizer_from: str | None = None,
    dtype: torch.dtype = torch.float32,
    computing: torch.dtype | None = None,
    device: torch.device | None = None,
    computing_on: torch.device | None = None,
) -> tuple[Any, Any]:
    """Model and tokenizer of a folder or hub id.

    `computing` is the dtype the model will be cast to later, if another than `dtype`, and
    `computing_on` the device it will be moved to. Generation settings of the base are dropped:
    greedy decoding must not depend on a penalty or a temperature that its makers chose. Raises
    BaseModelError with what to do next.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    folder, device = Path(name), device or default_device()
    if name.startswith((".", "/", "~")) and not folder.expanduser().is_dir():
        raise BaseModelError(f"base folder '{name}' does not exist")
    source = str(folder.expanduser()) if folder.expanduser().is_dir() else name
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            tokenizer_from or source, revision=revision, trust_remote_code=False
        )
        model = AutoModelForCausalLM.from_pretrained(
            source,
            revision=revision,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=False,
            attn_implementation=attention_for(computing_on or device, computing or dtype),
        )
    except (OSError, ValueError, KeyError) as error:
        raise BaseModelError(
            f"the base '{name}' cannot be loaded as a causal language model "
            f"({type(error).__name__})",
            hint="give a folder with config.json, *.safetensors and a tokenizer, or a hub id; "
            "without a network the hub files must be in the local cache",
        ) from error
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model.to(device)
    model.eval()
    return model, tokenizer


def attention_for(device: torch.device, dtype: torch.dtype) -> str | None:
    """Attention implementation; None for the fused kernel wherever the base supports it.

    On a CPU the fused kernel's backward is slower than eager. Not in float64: eager takes its
    softmax in float32, where the float64 mask value overflows and padding rows become NaN.
    """
    return None if device.type == "cuda" or dtype is torch.float64 else "eager"


def fingerprint(model: Any) -> str:
    """sha256 over a model's configuration and names, dtypes, shapes and bytes of its tensors, hex.

    The configuration counts: the same tensors with another rope base are another model.
    """
    digest = hashlib.sha256()
    config = {
        key: value
        for key, value in model.config.to_dict().items()
        if key not in ("_name_or_path", "transformers_version", "dtype")
    }
    digest.update(json.dumps(config, sort_keys=True, default=str).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}\n".encode())
        raw = tensor.detach().contiguous().cpu().reshape(-1).view(torch.uint8)
        digest.update(raw.numpy().data)
    return digest.hexdigest()


def text_fingerprint(*texts: str) -> str:
    """sha256 over texts with their lengths, hex."""
    digest = hashlib.sha256()
    for text in texts:
        data = text.encode()
        digest.update(len(data).to_bytes(8, "big"))
        digest.update(data)
    return digest.hexdigest()
