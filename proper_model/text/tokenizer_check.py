"""Does a tokenizer fit its base and its task?

Refused is what would fail later or train something else: ids without a row in the embedding table,
no token to end with, unknown words that end a text. Reported is what makes answers impossible or
meaningless: labels that do not come back from their own tokens, texts of unknown words.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from proper_model.errors import BaseModelError
from proper_model.text.encoding import Encoder
from proper_model.text.plain_text import PlainText, control_ids

MOST_NAMED = 3
TEXTS = 200
# Of all tokens; with more unknown ones the model reads next to nothing. Small vocabularies of words
# lose much of an instruction and keep what counts, so this is no place for a low limit.
MOST_UNKNOWN = 0.75


def check_tokenizer(where: str, tokenizer: Any, rows: int) -> None:
    """Refuse a tokenizer that does not fit an embedding table of `rows` rows; `where` it is from.

    A control token without a row is no harm as long as nothing makes it: no text does, see
    `plain_text`.

    Raises BaseModelError.
    """
    ends = tokenizer.eos_token_id
    if ends is None or not 0 <= ends < rows:
        raise BaseModelError(
            f"{where}: its tokenizer has no end-of-sequence token that the model knows",
            hint="set eos_token in tokenizer_config.json; answers must be able to end",
        )
    control = control_ids(tokenizer)
    words = tokenizer.get_vocab()
    beyond = sorted(
        (number, word)
        for word, number in words.items()
        if not 0 <= number < rows and number not in control
    )
    if beyond:
        some = ", ".join(f"{word!r} ({number})" for number, word in beyond[:MOST_NAMED])
        raise BaseModelError(
            f"{where}: its tokenizer makes {len(beyond)} ids that have no row among the "
            f"model's {rows}: {some}",
            hint="use the tokenizer that belongs to these weights; tokens that were added need "
            "model.resize_token_embeddings(len(tokenizer)), and training",
        )
    plain = PlainText(tokenizer)
    made = {"pad_token": [tokenizer.pad_token_id], "its beginning": plain.before}
    if getattr(tokenizer, "chat_template", None):
        made["its chat template"] = _turn(where, plain)
    for what, ids in made.items():
        lost = [i for i in ids if i is not None and not 0 <= i < rows]
        if lost:
            raise BaseModelError(
                f"{where}: {what} of the tokenizer is id {lost[0]}, and the model has rows "
                f"for 0 to {rows - 1}",
                hint="use the tokenizer that belongs to these weights; a pad_token that was added "
                "can be removed: the end of sequence then stands in",
            )


def _turn(where: str, plain: PlainText) -> list[int]:
    """The ids of a short user's turn. Raises BaseModelError where the template gives none."""
    try:
        return plain.turn_ids("a")
    except Exception as error:
        raise BaseModelError(
            f"{where}: its chat template does not write one user's turn ({type(error).__name__})",
            hint="repair chat_template in tokenizer_config.json, or remove it: the task's prompt is "
            "then given as it is",
        ) from error


def label_warnings(encoder: Encoder, labels: Sequence[str]) -> list[str]:
    """Labels that cannot be answered, as their tokens spell something else."""
    lost = [
        label for label in labels if encoder.decode(encoder.text_ids(" " + label)) != label.strip()
    ]
    if not lost:
        return []
    return [
        f"the base's tokenizer cannot write {len(lost)} of {len(labels)} labels, for example "
        f"'{lost[0]}': it changes letters or knows none for them"
    ]


def unknown_tokens(encoder: Encoder, text: str) -> tuple[int, int]:
    """How many tokens of a text are the unknown one, and how many there are; words, for a tokenizer of words.

    0 where the tokenizer spells every word.
    """
    ids = encoder.text_ids(text)
    unknown = getattr(encoder.tokenizer, "unk_token_id", None)
    return (0 if unknown is None else ids.count(unknown)), len(ids)


def text_warnings(encoder: Encoder, texts: Iterable[str]) -> list[str]:
    """A share of unknown tokens that leaves little to read; of the first texts only."""
    if getattr(encoder.tokenizer, "unk_token_id", None) is None:
        return []
    found = total = 0
    for _, text in zip(range(TEXTS), texts, strict=False):
        unknown, count = unknown_tokens(encoder, text)
        found, total = found + unknown, total + count
    if found <= MOST_UNKNOWN * total:
        return []
    return [
        f"the base's tokenizer does not know {found / total:.0%} of what people wrote; another base "
        "reads more of it"
    ]
