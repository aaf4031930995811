"""Would a device take a release over this base? Asked before anything is trained.

A device builds model and tokenizer from what `outside_config` and `tokenizer_files` let through. So
this is done here once with the base's, and the result must be what training uses: else a run would
end in a release that its publisher may not sign, or in devices that compute something else.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from proper_model.base.config import text_config
from proper_model.base.model_types import LARGEST_EMBEDDED_PARAMETERS, MODEL_TYPES, NESTED_TYPES
from proper_model.base.outside_config import (
    build_config,
    build_empty,
    declared,
    parse_config,
    saved_base_config,
)
from proper_model.base.portable_config import saved_files
from proper_model.bundle.file_names import CONFIG, is_base_file, may_be_read, weight_names
from proper_model.errors import BaseModelError, BundleFormatError
from proper_model.text.plain_text import PlainText
from proper_model.text.tokenizer_files import load_tokenizer, saved_tokenizer

_TEXTS = ("a", "Text 12 of a person.", "  two\n\nlines: café, naïve … 一二\t😀 ")
_HINT = "use a dense Llama, Qwen, Mistral or Gemma base as its makers published it"


def is_embedded(model: Any) -> bool:
    """A release holds this base, and does not only refer to it."""
    return bool(sum(p.numel() for p in model.parameters()) <= LARGEST_EMBEDDED_PARAMETERS)


def check_config(
    config: Any, model: Any, raw: bytes | None = None, *, embedded: bool | None = None
) -> None:
    """That a device would build `model` from the configuration as a release has it.

    Args:
        model: the language model on the meta device.
        raw: config.json of the base's folder; None where only `config` is at hand.
        embedded: whether a release embeds the base or refers to it; None: as its size decides.

    Raises BaseModelError.
    """
    text = text_config(config)
    if embedded is None:
        embedded = is_embedded(model)
    known = MODEL_TYPES if embedded else MODEL_TYPES | NESTED_TYPES.keys()
    kind = text.model_type if embedded else config.model_type
    if kind not in known:
        how = "take no release over it" if embedded else "take no release that refers to it"
        raise BaseModelError(
            f"of type '{kind}', and devices {how}",
            hint="types that releases may stand on: " + ", ".join(sorted(known)),
        )
    with _as_a_device():
        if embedded:
            saved = saved_files(text, lambda name: name == CONFIG)[CONFIG]
            built = build_config(parse_config(saved_base_config(saved)))
        else:
            built = build_empty(parse_config(raw or config.to_json_string().encode())).config
        counting = declared(text.model_type)
    ours, theirs = text.to_dict(), built.to_dict()
    if other := sorted(key for key in counting if ours.get(key) != theirs.get(key)):
        raise BaseModelError(
            f"devices would read another configuration: {', '.join(other[:3])}", hint=_HINT
        )


def check_folder(folder: Path, model: Any, *, embedded: bool | None = None) -> None:
    """That a device would take the files of a folder which a release refers to.

    `embedded` as in `check_config`. Raises BaseModelError.
    """
    if is_embedded(model) if embedded is None else embedded:
        return
    names = {path.name for path in folder.iterdir() if path.is_file()}
    if extra := sorted(name for name in names if may_be_read(name) and not is_base_file(name)):
        raise BaseModelError(
            f"its folder holds {extra[0]}, which some program would read beside the base",
            hint="use a folder with config.json, the weights and the tokenizer alone",
        )
    try:
        weight_names(names)
    except ValueError as error:
        raise BaseModelError(
            f"the base {error}",
            hint="keep model.safetensors, or model-00001-of-0000N.safetensors and so on; devices "
            "read these names only",
        ) from None


def check_saved_tokenizer(tokenizer: Any, rows: int) -> None:
    """That a device would write texts with the same tokens. Raises BaseModelError."""
    with _as_a_device():
        files = saved_tokenizer(tokenizer)
        there = load_tokenizer(files, rows=rows)
    ours, theirs = PlainText(tokenizer), PlainText(there)
    same = ours.before == theirs.before and ours.control == theirs.control
    same = same and all(ours.ids(text) == theirs.ids(text) for text in _TEXTS)
    if same and getattr(tokenizer, "chat_template", None):
        same = all(ours.turn_ids(text) == theirs.turn_ids(text) for text in _TEXTS)
    if not same:
        raise BaseModelError(
            "saved and loaded again, its tokenizer makes other tokens of the same text",
            hint="use the tokenizer that belongs to these weights, as tokenizer.json",
        )


@contextmanager
def _as_a_device() -> Iterator[None]:
    """What a device would say of a release, as said of the base."""
    try:
        yield
    except BundleFormatError as error:
        raise BaseModelError(f"devices would refuse it: {error.message}", hint=_HINT) from None
