"""A small release and fixed keys for the bundle tests. The tensor writer is independent of ours."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from proper_model.bundle import BundleFiles, BundleInfo, build_bundle
from proper_model.trust import TrustedRoot

CREATED = datetime(2026, 1, 1, tzinfo=UTC)
NOW = CREATED + timedelta(days=1)
LIFETIME = timedelta(days=365)

Tensor = tuple[str, tuple[int, ...], bytes]


def fixed_key(number: int) -> Ed25519PrivateKey:
    """A test key anyone can recompute; it protects nothing."""
    return Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32)


KEY, SECOND_KEY, STRANGER = fixed_key(1), fixed_key(2), fixed_key(3)
ROOT = TrustedRoot.of([KEY])


def tensor_file(tensors: Mapping[str, Tensor]) -> bytes:
    """safetensors bytes of name -> (dtype, shape, raw little-endian data)."""
    header, body = {}, b""
    for name, (dtype, shape, raw) in tensors.items():
        offsets = [len(body), len(body) + len(raw)]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": offsets}
        body += raw
    return raw_tensor_file(json.dumps(header, separators=(",", ":")).encode(), body)


def raw_tensor_file(header: bytes, body: bytes) -> bytes:
    return struct.pack("<Q", len(header)) + header + body


def floats(*values: float) -> bytes:
    return struct.pack(f"<{len(values)}f", *values)


def int64s(*values: int) -> bytes:
    return struct.pack(f"<{len(values)}q", *values)


def shared_tensors(members: tuple[int, ...] = (12, 10)) -> dict[str, Tensor]:
    """Two prototypes, a mean embedding, one site with experts and a router."""
    return {
        "prototypes": ("F32", (len(members), 1, 2), floats(*range(1, 2 * len(members) + 1))),
        "prototype_counts": ("I64", (len(members),), int64s(*members)),
        "mean_embedding": ("F32", (1, 2), floats(0.5, 0.25)),
        "mean_embedding_count": ("I64", (), int64s(22)),
        "experts.layers.0.mlp.up_proj.A": ("F32", (2, 1, 2), floats(1, 2, 3, 4)),
        "experts.layers.0.mlp.up_proj.B": ("F32", (2, 2, 1), floats(0, 0, 0, 0)),
        "routers.layers.0.mlp.up_proj.lora": ("F32", (2, 2), floats(0, 1, 0, 1)),
        "routers.tied.user": ("F32", (2, 2), floats(1, 0, 0, 1)),
    }


def sample_files(members: tuple[int, ...] = (12, 10)) -> dict[str, bytes]:
    return {
        "base/config.json": b'{"model_type":"sample"}',
        "base/model.safetensors": tensor_file({"lm_head.weight": ("BF16", (2,), b"\x80\x3f" * 2)}),
        "recipe.json": b'{"seed":0}',
        "shared.safetensors": tensor_file(shared_tensors(members)),
        "task.toml": b'name = "sample"\n',
    }


def sample_info(version: int = 1, **changes) -> BundleInfo:
    fields = {"version": version, "created": CREATED, "expires": CREATED + LIFETIME, **changes}
    return BundleInfo(**fields)


def sample_bundle(version: int = 1, *, files=None, keys=(KEY,), **changes) -> BundleFiles:
    return build_bundle(files or sample_files(), sample_info(version, **changes), keys)
