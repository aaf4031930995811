"""A base out of a GGUF file: checked, unpacked with transformers, written as an ordinary folder.

A GGUF's numbers are packed for llama.cpp, in blocks that cannot be trained over. They are unpacked
once, into bfloat16 (or as they are stored, where nothing is packed), so that everything else sees a
folder with config.json, *.safetensors and a tokenizer. `source.json` in it says which file it comes
from, by its sha256.
"""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from proper_model.base.config import empty_model
from proper_model.base.gguf_header import GgufHeader, read_gguf_header
from proper_model.base.loading import DTYPES
from proper_model.base.source import FORMAT, SOURCE, Facts, is_made_from
from proper_model.checks.base import check_architecture
from proper_model.checks.gguf_tokenizer import gguf_tokenizer
from proper_model.checks.publishable import check_config, check_saved_tokenizer
from proper_model.errors import BaseModelError, StorageError
from proper_model.export.merged_model import write_model_folder
from proper_model.progress import Progress, silent
from proper_model.settings.profile import StageSettings
from proper_model.storage.files import expanded, open_regular, storage_errors, write_atomic
from proper_model.storage.new_folder import check_new, check_room, new_folder
from proper_model.text.tokenizer_check import check_tokenizer

SUFFIX = ".gguf"
_TOKENIZER_BYTES = 64 << 20  # more than any tokenizer and configuration take
_DIGITS_OF_HASH = 12
_HINT = (
    "give the model as a folder with config.json, *.safetensors and a tokenizer; which types work is "
    "in docs/models.md"
)


@dataclass(frozen=True)
class _Stored:
    """What the file is: its name, its sha256 in hex, and what its header says."""

    path: Path
    sha256: str
    header: GgufHeader


def is_gguf(name: str) -> bool:
    """Whether what a person gave as a base names a GGUF file."""
    return name.lower().endswith(SUFFIX) and not expanded(name).is_dir()


def base_beside(name: str, progress: Progress = silent) -> str:
    """The folder of the base in a GGUF file, made beside it where it is not there yet.

    Its name ends in the beginning of the file's sha256, so that another file of the same name is
    another base. Raises as `write_gguf_base`.
    """
    path = expanded(name)
    stored = _stored(path, progress)
    folder = path.with_name(f"{path.stem}-{stored.sha256[:_DIGITS_OF_HASH]}")
    if is_made_from(folder, stored.sha256):
        return str(folder)
    try:
        _write(stored, folder, {}, progress)
    except StorageError as error:
        if is_made_from(folder, stored.sha256):  # another process was quicker
            return str(folder)
        raise StorageError(
            error.message,
            hint=error.hint
            or f"make the folder elsewhere, and give that: proper base add {path.name} --out FOLDER",
        ) from error
    return str(folder)


def write_gguf_base(
    path: Path,
    out: Path,
    more: Facts | None = None,
    progress: Progress = silent,
    *,
    chat: bool = True,
) -> bool:
    """Make the folder `out` of the base in a GGUF file; False if it is there already.

    Args:
        more: what else `source.json` is to say, for example a licence.
        chat: keep the chat template; without one, prompts are given as they are.

    Raises:
        BaseModelError: the file is no whole GGUF, not one that transformers reads, or a model that
            PROPER cannot be run over; nothing is left behind.
        ConfigError: the package gguf is missing.
        StorageError: `out` is something else, or the disk refuses.
    """
    stored = _stored(path, progress)
    if is_made_from(out, stored.sha256, chat=chat):
        return False
    check_new(out)
    _write(stored, out, more or {}, progress, chat=chat)
    return True


def _stored(path: Path, progress: Progress) -> _Stored:
    with storage_errors(path):
        if not path.exists():
            raise BaseModelError(
                f"base '{path}': no such file", hint="check the path of the GGUF file"
            )
    header = read_gguf_header(path)
    progress("reading the file", 0, 0)
    with storage_errors(path), open_regular(path) as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return _Stored(path, digest, header)


def _write(
    stored: _Stored, out: Path, more: Facts, progress: Progress, *, chat: bool = True
) -> None:
    """Convert into `out`, whole or not at all."""
    import torch

    header = stored.header
    dtype = DTYPES.get(header.dtype, torch.float16)
    check_room(out, header.numbers * dtype.itemsize + _TOKENIZER_BYTES, "the unpacked model")
    with tempfile.TemporaryDirectory() as scratch:
        # By itself, since transformers also reads what lies beside the file it is told to read.
        alone = Path(scratch) / "model.gguf"
        alone.symlink_to(stored.path.absolute())
        progress("checking the model", 0, 0)
        tokenizer = gguf_tokenizer(stored.path.name, header, _tokenizer(stored, alone))
        if not chat:
            tokenizer.chat_template = None
        _check(stored, alone, tokenizer)
        progress("unpacking the weights", 0, 0)
        model = _model(stored, alone, dtype)
    with new_folder(out) as folder:
        progress("writing the folder", 0, 0)
        write_model_folder(folder, model, tokenizer, model.state_dict())
        write_atomic(folder / SOURCE, _source(stored, out, model, {**more, "chat": chat}))


def _tokenizer(stored: _Stored, alone: Path) -> Any:
    from transformers import AutoTokenizer

    return _read(stored, "tokenizer", AutoTokenizer, alone)


def _check(stored: _Stored, alone: Path, tokenizer: Any) -> None:
    """Refuse by its description what no run could start from, before anything is unpacked."""
    from transformers import AutoConfig

    config = _read(stored, "configuration", AutoConfig, alone)
    _check_positions(stored, config)
    model = empty_model(config)
    rows = model.get_input_embeddings().weight.shape[0]
    check_tokenizer(stored.path.name, tokenizer, rows)
    try:
        check_architecture(config, model, StageSettings(name="any"))
        check_config(config, model)
        check_saved_tokenizer(tokenizer, rows)
    except BaseModelError as error:
        raise BaseModelError(f"{stored.path.name}: {error.message}", hint=error.hint) from None


def _check_positions(stored: _Stored, config: Any) -> None:
    """Raise BaseModelError where transformers leaves out how a GGUF scales its positions."""
    header = stored.header
    scaling = header.values.get(f"{header.architecture}.rope.scaling.type", "none")
    factors = any(name.startswith(("rope_freqs", "rope_factors")) for name in header.tensors)
    rope = getattr(config, "rope_parameters", None) or {}
    if (factors or scaling != "none") and rope.get("rope_type", "default") == "default":
        raise BaseModelError(
            f"{stored.path.name}: its positions are scaled, and transformers does not read that from "
            "a GGUF: it would compute another model",
            hint=_HINT,
        )


def _model(stored: _Stored, alone: Path, dtype: Any) -> Any:
    """The model with its numbers unpacked, and nothing in its configuration that says otherwise."""
    import transformers

    options: dict[str, Any] = {"dtype": dtype}
    if (packing := getattr(transformers, "GgufConfig", None)) is not None:
        options["quantization_config"] = packing(dequantize=True)  # else they stay packed
    reader = transformers.AutoModelForCausalLM
    model, info = _read(stored, "weights", reader, alone, output_loading_info=True, **options)
    for name in ("quantization_config", "_model_name_or_path"):
        if hasattr(model.config, name):
            delattr(model.config, name)
    # transformers would go on with random numbers.
    if lost := sorted([*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])]):
        raise BaseModelError(
            f"{stored.path.name}: lacks {len(lost)} tensors of its architecture, or has them in "
            f"another size, for example '{lost[0]}'",
            hint="copy or download the file again",
        )
    return model


def _read(stored: _Stored, what: str, reader: Any, alone: Path, **options: Any) -> Any:
    """What transformers reads from the file. Raises BaseModelError; its own words may quote data."""
    try:
        return reader.from_pretrained(
            str(alone.parent), gguf_file=alone.name, trust_remote_code=False, **options
        )
    except Exception as error:
        architecture = re.sub(r"[^\w.-]", "?", stored.header.architecture)[:40]
        raise BaseModelError(
            f"{stored.path.name}: transformers cannot read the {what} of a GGUF of architecture "
            f"'{architecture}' ({type(error).__name__})",
            hint=_HINT,
        ) from error


def _source(stored: _Stored, out: Path, model: Any, more: Facts) -> bytes:
    facts = {
        "format": FORMAT,
        "name": out.name,
        "gguf_file": stored.path.name,
        "gguf_sha256": stored.sha256,
        "packed_as": sorted({t.kind for t in stored.header.tensors.values()}),
        "parameters": sum(p.numel() for p in model.parameters()),
        **more,
    }
    return (json.dumps(facts, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()
