"""A small release and fixed keys for the bundle tests. The tensor writer is independent of ours."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from client.releases.store import InstalledBundle, read_checked
from proper_model.bundle.signed_bundle import BundleFiles, BundleInfo, build_bundle
from proper_model.bundle.trusted_root import TrustedRoot

CREATED = datetime(2026, 1, 1, tzinfo=UTC)
NOW = CREATED + timedelta(days=1)
LIFETIME = timedelta(days=365)

Tensor = tuple[str, tuple[int, ...], bytes]


def fixed_key(number: int) -> Ed25519PrivateKey:
    """A test key anyone can recompute; it protects nothing."""
    return Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32)


KEY, SECOND_KEY, STRANGER = fixed_key(1), fixed_key(2), fixed_key(3)
ROOT = TrustedRoot.of([KEY])


def tensor_file(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> bytes:
    """safetensors bytes of name -> (dtype, shape, raw little-endian data)."""
    header: dict[str, Any] = {} if metadata is None else {"__metadata__": metadata}
    body = b""
    for name, (dtype, shape, raw) in tensors.items():
        offsets = [len(body), len(body) + len(raw)]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": offsets}
        body += raw
    return raw_tensor_file(json.dumps(header, separators=(",", ":")).encode(), body)


def raw_tensor_file(header: bytes, body: bytes) -> bytes:
    return struct.pack("<Q", len(header)) + header + body


def flips(data: bytes) -> Iterator[bytes]:
    """The same bytes with one bit flipped, for every bit."""
    for position in range(len(data)):
        for bit in range(8):
            yield data[:position] + bytes([data[position] ^ 1 << bit]) + data[position + 1 :]


def floats(*values: float) -> bytes:
    return struct.pack(f"<{len(values)}f", *values)


def int64s(*values: int) -> bytes:
    return struct.pack(f"<{len(values)}q", *values)


TIED: Tensor = ("F32", (2, 2), floats(1, 0, 0, 1))


def averages(members: tuple[int, ...]) -> dict[str, Tensor]:
    """Prototypes of so many people each, and a mean embedding."""
    return {
        "prototypes": ("F32", (len(members), 1, 2), floats(*range(1, 2 * len(members) + 1))),
        "prototype_counts": ("I64", (len(members),), int64s(*members)),
        "mean_embedding": ("F32", (1, 2), floats(0.5, 0.25)),
        "mean_embedding_count": ("I64", (), int64s(22)),
    }


def shared_tensors(members: tuple[int, ...] = (12, 10)) -> dict[str, Tensor]:
    """Averages, and one site with experts and a router: enough for the format."""
    return averages(members) | {
        "experts.layers.0.mlp.up_proj.A": ("F32", (2, 1, 2), floats(1, 2, 3, 4)),
        "experts.layers.0.mlp.up_proj.B": ("F32", (2, 2, 1), floats(0, 0, 0, 0)),
        "routers.layers.0.mlp.up_proj.lora": ("F32", (2, 2), floats(0, 1, 0, 1)),
        "routers.tied.user": TIED,
    }


def format_files(members: tuple[int, ...] = (12, 10)) -> dict[str, bytes]:
    """What the format of bundles accepts, though no program could use it; see the test vectors."""
    return {
        "base/config.json": b'{"model_type":"sample"}',
        "base/model.safetensors": tensor_file({"lm_head.weight": ("BF16", (2,), b"\x80\x3f" * 2)}),
        "recipe.json": b'{"seed":0}',
        "shared.safetensors": tensor_file(shared_tensors(members)),
        "task.toml": b'name = "sample"\n',
    }


# --- a whole release, its shapes written out: one block of width 4, feed-forward 6, 8 tokens ---

WIDTH, HIDDEN, ROWS = 4, 6, 8
CONFIG = {
    "model_type": "llama",
    "vocab_size": ROWS,
    "hidden_size": WIDTH,
    "intermediate_size": HIDDEN,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "num_key_value_heads": 1,
    "tie_word_embeddings": False,
}
FEED_FORWARD = {"gate": (HIDDEN, WIDTH), "up": (HIDDEN, WIDTH), "down": (WIDTH, HIDDEN)}
TASK_TOML = """name = "sample"
kind = "generation"
template = "short"
fields = ["text", "reply"]
metrics = ["rouge1"]

[history.plain]
prompt = "{text}"
answer = "{reply}"

[templates.short]
query = "{text}"
history = "plain"
line = "{text} {reply}"
"""
POPULATION = "adapters/population/adapter_model.safetensors"
WORDS = ("<unk>", "</s>", "a", "b", "c")
TOKENIZER = {
    "version": "1.0",
    "added_tokens": [],
    "pre_tokenizer": {"type": "WhitespaceSplit"},
    "model": {
        "type": "WordLevel",
        "vocab": {word: number for number, word in enumerate(WORDS)},
        "unk_token": "<unk>",
    },
}
TOKENIZER_CONFIG = {
    "tokenizer_class": "TokenizersBackend",
    "eos_token": "</s>",
    "unk_token": "<unk>",
}


def constant(*shape: int, value: float = 0.0) -> Tensor:
    return "F32", shape, floats(*[value] * math.prod(shape))


def base_tensors() -> dict[str, Tensor]:
    block = "model.layers.0."
    tensors = {f"{block}self_attn.{n}_proj.weight": constant(WIDTH, WIDTH) for n in "qkvo"}
    tensors |= {f"{block}mlp.{n}_proj.weight": constant(*s) for n, s in FEED_FORWARD.items()}
    norms = ("model.norm", f"{block}input_layernorm", f"{block}post_attention_layernorm")
    tensors |= {f"{name}.weight": constant(WIDTH, value=1.0) for name in norms}
    ends = ("model.embed_tokens", "lm_head")
    return tensors | {f"{name}.weight": constant(ROWS, WIDTH, value=0.5) for name in ends}


def whole_shared(members: tuple[int, ...] = (12, 10)) -> dict[str, Tensor]:
    """Two experts of rank 1 on each of three sites, routed by one tied router."""
    tensors = averages(members) | {"routers.tied.user": TIED}
    for name, (d_out, d_in) in FEED_FORWARD.items():
        site = f"experts.model.layers.0.mlp.{name}_proj"
        tensors[f"{site}.A"] = constant(2, 1, d_in, value=0.5)
        tensors[f"{site}.B"] = constant(2, d_out, 1)
    return tensors


def sample_recipe(**changes: Any) -> bytes:
    """recipe.json of the release; `changes` are to its top level."""
    structure = {
        "name": "device",
        "router_text": "none",
        "router_sharing": "tied",
        "embedding_tables": "one",
        "user_routing": "user_aware",
        "experts": 2,
        "rank": 1,
        "embedding_dim": 2,
    }
    recipe = {
        "format": 1,
        "structure": structure,
        "settings": {"name": "sample", "dtype": "float32"},
        "template": "short",
        "seed": 0,
        "base": None,
        "notes": {},
    }
    return json.dumps({**recipe, **changes}, sort_keys=True).encode()


def sample_files(members: tuple[int, ...] = (12, 10), **recipe: Any) -> dict[str, bytes]:
    """The smallest release that a device can use, with changes to its recipe."""
    return {
        "base/config.json": json.dumps(CONFIG).encode(),
        "base/model.safetensors": tensor_file(base_tensors()),
        "recipe.json": sample_recipe(**recipe),
        "shared.safetensors": tensor_file(whole_shared(members)),
        "task.toml": TASK_TOML.encode(),
        "tokenizer/tokenizer.json": json.dumps(TOKENIZER).encode(),
        "tokenizer/tokenizer_config.json": json.dumps(TOKENIZER_CONFIG).encode(),
    }


def big_files(size_bytes: int = 400_000) -> dict[str, bytes]:
    """The same release with a base file of a size that transfers take a while for."""
    base = tensor_file(base_tensors(), {"note": "." * size_bytes})
    return sample_files() | {"base/model.safetensors": base}


def referring_files(name: str, revision: str) -> dict[str, bytes]:
    """The same release over a base that is fetched elsewhere: its population LoRA in its place."""
    settings = {"name": "sample", "dtype": "float32", "population": {"rank": 1}}
    files = sample_files(base={"name": name, "revision": revision}, settings=settings)
    del files["base/model.safetensors"]
    files[POPULATION] = population_lora()
    return files


def population_lora(**changes: Tensor | None) -> bytes:
    """On attention, of rank 1; `qA` and the like replace a factor, None leaves it out."""
    lora = {f"{n}A": constant(1, WIDTH, value=0.5) for n in "qkvo"}
    lora |= {f"{n}B": constant(WIDTH, 1, value=0.5) for n in "qkvo"}
    path = "base_model.model.model.layers.0.self_attn.{}_proj.lora_{}.weight"
    return tensor_file(
        {
            path.format(*key): tensor
            for key, tensor in (lora | changes).items()
            if tensor is not None
        }
    )


def base_files() -> dict[str, bytes]:
    """The base that `referring_files` stands on, as files of a folder."""
    return {
        "config.json": json.dumps(CONFIG).encode(),
        "model.safetensors": tensor_file(base_tensors()),
    }


def sample_info(version: int = 1, **changes) -> BundleInfo:
    fields = {"version": version, "created": CREATED, "expires": CREATED + LIFETIME, **changes}
    return BundleInfo(**fields)


def sample_bundle(version: int = 1, *, files=None, keys=(KEY,), **changes) -> BundleFiles:
    return build_bundle(files or sample_files(), sample_info(version, **changes), keys)


def format_bundle(version: int = 1, *, files=None, **changes) -> BundleFiles:
    return sample_bundle(version, files=files or format_files(), **changes)


def write_files(folder: Path, files: Mapping[str, bytes]) -> Path:
    """A bundle's or base's folder; its parents are made too."""
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, by its path there."""
    found = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def load_files(bundle: InstalledBundle) -> dict[str, bytes]:
    """Every file of an installed bundle, each checked as it is read."""
    manifest = bundle.manifest
    return {name: read_checked(bundle.path, manifest, name) for name in manifest.files}
