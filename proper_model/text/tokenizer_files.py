"""A tokenizer from files that were verified: which settings it may have, read from a private copy.

transformers follows a tokenizer's configuration to classes, modules and further files. So those keys
that describe the tokenizer are kept and all others are left out; one that asks for code is refused.
Source: docs/bundle-format.md section 6.7.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from proper_model.bundle.file_names import (
    CHAT_TEMPLATE,
    TOKENIZER,
    TOKENIZER_CONFIG,
    TOKENIZER_JSON,
    is_release_file,
)
from proper_model.errors import BaseModelError, BundleFormatError
from proper_model.storage.documents import DocumentError, parse_object
from proper_model.storage.files import storage_errors
from proper_model.text.chat_turn import asked, check_template
from proper_model.text.tokenizer_check import check_tokenizer

MAX_TOKENIZER_BYTES = 128 << 20
MAX_CONFIG_BYTES = 8 << 20  # it may repeat every added token
MAX_GROWTH = 4096  # of a character of text by a tokenizer's normalizer or decoder
MAX_TEMPLATE_BYTES = 256 << 10
_SPECIAL = tuple(f"{name}_token" for name in ("bos", "eos", "unk", "sep", "pad", "cls", "mask"))
_KEPT = frozenset(
    {
        *_SPECIAL,
        *("tokenizer_class", "backend", "model_max_length", "padding_side", "truncation_side"),
        *("additional_special_tokens", "extra_special_tokens", "added_tokens_decoder"),
        *("add_bos_token", "add_eos_token", "add_prefix_space", "clean_up_tokenization_spaces"),
        *("split_special_tokens", "spaces_between_special_tokens", "legacy", "errors"),
        *("use_default_system_prompt", "chat_template", "model_input_names"),
        *("do_lower_case", "trim_offsets", "fix_mistral_regex"),
    }
)
# What a token may say of itself. The tokenizers library writes names that it does not know to the
# terminal as they are, control characters included.
_TOKEN_KEYS = frozenset(
    {"content", "single_word", "lstrip", "rstrip", "normalized", "special", "__type", "id"}
)
_CLASS = re.compile(r"[A-Za-z0-9_]{1,100}")
_REFUSED = ("auto_map", "custom_generate")
_PROBE = "Text 12 of a person."
_HINT = "ask the publisher for a release with a tokenizer that transformers saved"


def clean_config(data: bytes) -> bytes:
    """tokenizer_config.json with the keys that count. Raises BundleFormatError."""
    where = TOKENIZER + TOKENIZER_CONFIG
    if len(data) > MAX_CONFIG_BYTES:
        raise _error(where, f"{len(data)} bytes, expected at most {MAX_CONFIG_BYTES}")
    try:
        fields = parse_object(data, max_depth=6)
    except DocumentError as error:
        raise _error(where, str(error)) from None
    for key in _REFUSED:
        if fields.get(key):
            raise _error(where, f"{key} asks for code of its own, which a release cannot")
    kept = {key: _plain_tokens(key, value) for key, value in fields.items() if key in _KEPT}
    name = kept.get("tokenizer_class")
    if not isinstance(name, str) or _CLASS.fullmatch(name) is None:
        raise _error(where, "names no tokenizer_class")
    template = kept.get("chat_template")
    if template is not None and not isinstance(template, str):
        raise _error(where, "chat_template must be one text")
    return json.dumps(kept, sort_keys=True).encode()


def saved_tokenizer(tokenizer: Any) -> dict[str, bytes]:
    """The files of a tokenizer that a release holds, by name.

    Raises BundleFormatError for one that no `tokenizer.json` describes.
    """
    from proper_model.base.portable_config import saved_files

    # Without its older formats and further templates: nothing reads them.
    files = saved_files(tokenizer, lambda name: is_release_file(TOKENIZER + name))
    if TOKENIZER_JSON not in files:
        raise _error(TOKENIZER + TOKENIZER_JSON, "missing, and nothing else says how to read text")
    return files | {TOKENIZER_CONFIG: saved_config(files[TOKENIZER_CONFIG])}


def _plain_tokens(key: str, value: Any) -> Any:
    """A field's value, whose tokens have only the keys that tokens have."""
    if isinstance(value, list):
        return [_plain_token(one) for one in value]
    if key in ("added_tokens_decoder", "extra_special_tokens") and isinstance(value, dict):
        return {name: _plain_tokens("", one) for name, one in value.items()}
    return _plain_token(value)


def _plain_token(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return {name: one for name, one in value.items() if name in _TOKEN_KEYS}


def saved_config(data: bytes) -> bytes:
    """`clean_config` of what transformers saved, without the `auto_map` it may have carried over."""
    fields = parse_object(data)
    fields.pop("auto_map", None)
    return clean_config(json.dumps(fields).encode())


def load_tokenizer(files: Mapping[str, bytes], *, rows: int, private: Path | None = None) -> Any:
    """The tokenizer of verified files by name, without their folder, tried once.

    Args:
        files: what was verified.
        rows: of the embedding table: no token id that a text can have may lie beyond them.
        private: a folder of ours that holds these very files. It is read in place where nothing
            else lies in it and its configuration says nothing more, so that a device writes
            nothing; else copies are read.

    Raises BundleFormatError saying what is wrong with it, StorageError where no copy can be written.
    """
    for name, most in ((TOKENIZER_JSON, MAX_TOKENIZER_BYTES), (TOKENIZER_CONFIG, MAX_CONFIG_BYTES)):
        if not 0 < len(files.get(name, b"")) <= most:
            raise _error(TOKENIZER + name, f"expected a file of at most {most} bytes")
    if len(files.get(CHAT_TEMPLATE, b"")) > MAX_TEMPLATE_BYTES:
        raise _error(TOKENIZER + CHAT_TEMPLATE, f"larger than {MAX_TEMPLATE_BYTES} bytes")
    _check_readable(files[TOKENIZER_JSON])
    copies = {name: files[name] for name in (TOKENIZER_JSON, CHAT_TEMPLATE) if name in files}
    copies[TOKENIZER_CONFIG] = clean_config(files[TOKENIZER_CONFIG])
    whole = json.loads(copies[TOKENIZER_CONFIG]) == json.loads(files[TOKENIZER_CONFIG])
    if private is not None and whole and {path.name for path in private.iterdir()} == set(copies):
        tokenizer = _built(str(private))
    else:
        tokenizer = _from_copies(copies)
    _try(tokenizer, rows)
    return tokenizer


def _from_copies(files: Mapping[str, bytes]) -> Any:
    with storage_errors(Path(tempfile.gettempdir())), tempfile.TemporaryDirectory() as scratch:
        for name, data in files.items():
            (Path(scratch) / name).write_bytes(data)
        return _built(scratch)


def _check_readable(data: bytes) -> None:
    """Raise unless the vocabulary can be read, there is one, and texts stay about as long."""
    from tokenizers import Tokenizer

    try:
        fields = parse_object(data)
    except DocumentError as error:
        raise _error(TOKENIZER + TOKENIZER_JSON, str(error)) from None
    for step in ("normalizer", "decoder"):
        if _growth(fields.get(step)) > MAX_GROWTH:
            raise _error(TOKENIZER + TOKENIZER_JSON, f"its {step} makes texts very much longer")
    with _refusing(TOKENIZER + TOKENIZER_JSON, "the tokenizer cannot be read"):
        size = Tokenizer.from_buffer(data).get_vocab_size(with_added_tokens=True)
    if not size:
        raise _error(TOKENIZER + TOKENIZER_JSON, "its vocabulary is empty")


def _growth(value: Any) -> int:
    """How many characters one may become, at most."""
    most, level = 1, [value]
    while level:
        item = level.pop()
        if isinstance(item, dict):
            level += item.values()
            written = (item.get("content"), item.get("prepend"))
            most *= max(1, *(len(text) for text in written if isinstance(text, str)), 1)
            most = min(most, MAX_GROWTH + 1)
        elif isinstance(item, list):
            level += item
    return most


def _built(folder: str) -> Any:
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    with _refusing(TOKENIZER + TOKENIZER_CONFIG, "transformers makes no tokenizer of it"):
        tokenizer = AutoTokenizer.from_pretrained(
            folder, trust_remote_code=False, local_files_only=True
        )
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise _error(
            TOKENIZER + TOKENIZER_CONFIG, "tokenizer_class is none that reads tokenizer.json"
        )
    return tokenizer


def _try(tokenizer: Any, rows: int) -> None:
    """One prompt, as the encoder will write it."""
    template = tokenizer.chat_template
    with _refusing(TOKENIZER, "what it makes of texts cannot be found out"):
        if template:
            check_template(template)
        check_tokenizer("it", tokenizer, rows)
    with _refusing(TOKENIZER, "one prompt cannot be written with it"):
        text = asked(tokenizer, _PROBE) if template else _PROBE
        ids = list(tokenizer(text)["input_ids"])
        tokenizer.decode(ids, skip_special_tokens=True)
    if _PROBE not in text:
        raise _error(TOKENIZER, "its chat template leaves out what a person says")
    if not ids or not all(0 <= number < rows for number in ids):
        raise _error(TOKENIZER, "of a prompt it makes no token ids that the base has rows for")


@contextmanager
def _refusing(where: str, what: str) -> Iterator[None]:
    """Whatever the library says of a tokenizer inside is a BundleFormatError."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseModelError as error:
        raise _error(where, error.message) from None
    except BaseException as error:  # noqa: BLE001 - a panic of Rust code is no Exception
        raise _error(where, f"{what} ({type(error).__name__})") from None


def _error(where: str, what: str) -> BundleFormatError:
    return BundleFormatError(f"{where}: {what}", hint=_HINT)
