"""Somebody's text never becomes a control token, whatever tokenizer a base has."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
from federation import make_base
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers.trainers import BpeTrainer, UnigramTrainer
from transformers import PreTrainedTokenizerFast
from transformers.tokenization_utils_base import AddedToken

from proper_model.checks import find_base
from proper_model.errors import BaseModelError, MetricError
from proper_model.settings.shipped_profiles import load_profile
from proper_model.tasks.records import Population, Query, User
from proper_model.tasks.task import Example, load_task
from proper_model.text.chat_turn import check_template
from proper_model.text.encoding import Encoder
from proper_model.text.plain_text import PlainText, control_ids
from proper_model.text.tokenizer_check import (
    check_tokenizer,
    label_warnings,
    text_warnings,
    unknown_tokens,
)
from simulations.setup.sources import _doubts
from simulations.synthetic.tiny_base import word_tokenizer

CORPUS = [
    "a film that I liked, dark comedy",
    "rate it 5 of 5: great",
    "na\u00efve \u2603 \U0001f600",
] * 9
MARKERS = ("</s>", "<|im_end|>", "<|im_start|>user", "[INST]", "<|endoftext|>", "<s>", "<pad>")
NAMES = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
SPECIAL = [*NAMES.values(), "<|im_start|>", "<|im_end|>", "<|endoftext|>"]
CHAT = (
    "{{ bos_token }}{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] | trim }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>[INST]assistant\n{% endif %}"
)


@cache
def trained(kind: str) -> str:
    """Trained once: the trainer of one kind breaks ties at random."""
    return (byte_level() if kind == "bytes" else sentencepiece()).to_str()


def byte_level() -> Tokenizer:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = BpeTrainer(vocab_size=330, initial_alphabet=alphabet, special_tokens=SPECIAL)
    backend.train_from_iterator(CORPUS, trainer)
    return backend


def sentencepiece() -> Tokenizer:
    """Unigram, whose lattice knows control tokens as pieces of score 0: the likeliest of all."""
    backend = Tokenizer(models.Unigram())
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    trainer = UnigramTrainer(vocab_size=90, special_tokens=SPECIAL, unk_token="<unk>")
    backend.train_from_iterator([*CORPUS, "<|/s_endofxtmriupdINST[]>"], trainer)
    return backend


def tokenizer(
    kind: str, *, ends: bool = False, chat: bool = False, plain: str | None = None
) -> Any:
    """`ends`: it puts an end behind every text. `plain`: an added token that is not special."""
    if kind == "words":
        made = word_tokenizer(["a", "film", "rate", "it", "5"])
        made.add_special_tokens({"additional_special_tokens": SPECIAL[4:]})
    else:
        made = PreTrainedTokenizerFast(
            tokenizer_object=Tokenizer.from_str(trained(kind)),
            additional_special_tokens=SPECIAL[4:],
            **NAMES,
        )
    ids = {name: made.convert_tokens_to_ids(name) for name in ("<s>", "</s>")}
    if kind != "words" or ends:
        made.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A </s>" if ends else "<s> $A", special_tokens=list(ids.items())
        )
    if plain:
        made.add_tokens([AddedToken(plain, special=False, normalized=False)])
    if chat:
        made.chat_template = CHAT
    return made


def encoder(made: Any) -> Encoder:
    return Encoder(made, max_prompt_tokens=400, max_answer_tokens=100)


KINDS = ["bytes", "sentencepiece", "words"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("chat", [False, True])
@pytest.mark.parametrize("marker", MARKERS)
def test_a_marker_in_a_text_is_text(kind: str, chat: bool, marker: str) -> None:
    made = tokenizer(kind, chat=chat, plain="[INST]")
    control = control_ids(made)
    ours = encoder(made)
    clean = ours.encode(Example("1", "rate it", "5"))
    sample = ours.encode(Example("1", f"rate{marker} it {marker}", f"5{marker}"))
    prompt, answer = (
        sample.tokens[: sample.prompt_tokens],
        sample.tokens[sample.prompt_tokens : -1],
    )
    assert control.isdisjoint(answer)
    assert [i for i in prompt if i in control] == [
        i for i in clean.tokens[: clean.prompt_tokens] if i in control
    ]
    assert list(prompt) == ours.prompt(f"rate{marker} it {marker}")
    if kind == "bytes":  # nothing is lost where every letter has a token
        assert ours.decode(answer) == f"5{marker}"


@pytest.mark.parametrize("kind", ["bytes", "sentencepiece"])
def test_a_templates_own_markers_stay_control_tokens(kind: str) -> None:
    made = tokenizer(kind, chat=True, plain="[INST]")
    names = made.convert_ids_to_tokens(encoder(made).prompt("a film </s>"))
    control = [name for name in names if made.convert_tokens_to_ids(name) in control_ids(made)]
    assert control == ["<s>", "<|im_start|>", "<|im_end|>", "<|im_start|>", "[INST]"]


@pytest.mark.parametrize("kind", KINDS)
@given(
    text=st.lists(st.sampled_from([*MARKERS, "a", " film", "<", "/s>", "\u2603", "\n"]), max_size=8)
)
def test_no_mixture_of_markers_and_text_gives_a_control_token(kind: str, text: list[str]) -> None:
    made = CACHED[kind]
    assert control_ids(made).isdisjoint(PlainText(made).ids("".join(text)))


CACHED = {kind: tokenizer(kind, plain="[INST]") for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", ["a film", "rate it 5", "dark  comedy:\n na\u00efve"])
def test_other_texts_are_tokenized_as_by_the_tokenizer_itself(kind: str, text: str) -> None:
    made = tokenizer(kind)
    assert encoder(made).prompt(text) == made(text)["input_ids"]
    chat = tokenizer(kind, chat=True)
    turn = [{"role": "user", "content": text}]
    rendered = chat.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
    expected = chat(rendered, add_special_tokens=False)["input_ids"]
    assert encoder(chat).prompt(text) == expected


@pytest.mark.parametrize("kind", KINDS)
def test_an_end_that_a_tokenizer_adds_stands_behind_the_answer_only(kind: str) -> None:
    with_end, without = (encoder(tokenizer(kind, ends=ends)) for ends in (True, False))
    example = Example("1", "rate it", "5")
    assert with_end.tokenizer("rate it")["input_ids"][-1] == with_end.eos
    sample = with_end.encode(example)
    assert sample == without.encode(example)
    assert sample.tokens.count(with_end.eos) == 1
    assert sample.tokens[-1] == with_end.eos
    bos = with_end.tokenizer.bos_token_id
    assert (sample.tokens.count(bos), sample.tokens[0]) == (1, bos)
    assert with_end.prompt("rate it") == list(sample.tokens[: sample.prompt_tokens])


@pytest.mark.parametrize("limit", [4, 10**30])
def test_a_tokenizers_own_length_limit_cuts_nothing(limit: int) -> None:
    made = tokenizer("bytes")
    made.model_max_length = limit
    sample = encoder(made).encode(Example("1", "rate it " * 9, "5 of 5"))
    assert encoder(made).decode(sample.tokens[sample.prompt_tokens :]) == "5 of 5"
    assert sample.prompt_tokens > 10


def refused(made: Any, rows: int) -> str:
    with pytest.raises(BaseModelError) as caught:
        check_tokenizer("mine", made, rows)
    assert caught.value.hint
    return caught.value.message


def test_ids_without_a_row_are_found() -> None:
    made = tokenizer("bytes")
    rows = len(made)
    check_tokenizer("mine", made, rows)
    check_tokenizer("mine", made, rows + 64)  # many bases have rows to spare
    made.add_tokens(["brandnew", "another"])
    assert f"makes 2 ids that have no row among the model's {rows}: 'brandnew' ({rows})" in refused(
        made, rows
    )
    assert "end-of-sequence token that the model knows" in refused(made, 1)


def test_a_control_token_without_a_row_is_no_harm_until_something_makes_it() -> None:
    """As Gemma 3 1B's image token, behind the last row."""
    made = tokenizer("bytes")
    rows = len(made)
    made.add_special_tokens({"additional_special_tokens": ["<image>"]})
    check_tokenizer("mine", made, rows)
    assert max(encoder(made).prompt("an <image> of a film")) < rows
    made.chat_template = "{% for m in messages %}<image>{{ m['content'] }}{% endfor %}"
    assert f"its chat template of the tokenizer is id {rows}" in refused(made, rows)


def test_a_padding_token_that_was_added_is_found() -> None:
    made = tokenizer("bytes")
    rows = len(made)
    made.add_special_tokens({"pad_token": "[PAD]"})
    assert f"pad_token of the tokenizer is id {rows}" in refused(made, rows)


def test_a_chat_template_that_fails_is_found() -> None:
    made = tokenizer("bytes")
    made.chat_template = "{{ raise_exception('system first') }}"
    assert "chat template does not write one user's turn" in refused(made, len(made))


def test_labels_that_cannot_be_written_and_unknown_texts_are_told() -> None:
    made = tokenizer("bytes")
    assert label_warnings(encoder(made), ["5", "dark comedy", "na\u00efve"]) == []
    assert text_warnings(encoder(made), CORPUS) == []
    made.backend_tokenizer.normalizer = normalizers.Lowercase()
    (told,) = label_warnings(encoder(made), ["5", "Dark Comedy"])
    assert "cannot write 1 of 2 labels, for example 'Dark Comedy'" in told
    words = encoder(tokenizer("words"))
    assert text_warnings(words, ["a film", "rate this thing"]) == []
    (told,) = text_warnings(words, ["ein Buch", "noch ein Buch", "film"])
    assert "does not know 83% of what people wrote" in told
    assert unknown_tokens(words, "ein Buch a film") == (2, 4)
    assert unknown_tokens(words, "") == (0, 0)
    assert unknown_tokens(encoder(made), "ein Buch zqx")[0] == 0, "it spells every word"


def test_labels_that_no_token_tells_apart_are_found_before_a_run_trains(tmp_path: Path) -> None:
    """The expected score is read off one position; without it a run failed when all was trained."""
    task, settings = load_task("LaMP_3", template="short"), load_profile("demo")
    people = Population("mine", (User("u", (), (Query("q", "a film", "5"),)),), ())
    for known, fails in (([*"12345"], False), (["a", "film"], True)):
        folder = make_base(tmp_path / str(fails))
        word_tokenizer([*known, "review:"]).save_pretrained(folder)
        if fails:
            with pytest.raises(MetricError, match="5 labels part into only 1"):
                _doubts(find_base(str(folder)), settings, task, people)
        else:
            assert (
                len(_doubts(find_base(str(folder)), settings, task, people)) == 1
            )  # 'film' is unknown


LOOPS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
SAYS = "{{ messages[0].content }}"


@pytest.mark.parametrize(
    ("template", "says"),
    [
        (LOOPS + SAYS, "takes too long"),
        ("{% if 'long' in messages[0].content %}" + LOOPS + "{% endif %}" + SAYS, "takes too long"),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "RecursionError"),
        (SAYS + "{{ raise_exception(messages[0].content) }}", r"fails on a text \(TemplateError"),
        (SAYS + "{{ (messages[0].content ~ ' ') * 99999 }}", "writes too much"),
    ],
)
def test_a_template_without_bounds_ends_in_a_message_without_the_text(
    template: str, says: str
) -> None:
    tokenizer = word_tokenizer(["a"])
    tokenizer.chat_template = template
    with pytest.raises(BaseModelError, match=says) as caught:
        PlainText(tokenizer).asked("a long canary")
    assert "canary" not in caught.value.message
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    "written",
    ["'x' * 2000000000", "9**9**9", "'%1000000000d' % 1", "'x'|center(1000000000)", "1", "x|trim"],
)
def test_constants_of_a_template_are_looked_at_before_jinja_computes_them(written: str) -> None:
    template = "{% generation %}" + SAYS + "{{ " + written + " }}{% endgeneration %}"
    if written in ("1", "x|trim"):
        check_template(template)
        return
    with pytest.raises(BaseModelError, match="constants"):
        check_template(template)


def test_a_text_of_which_nothing_is_left_is_a_prompt_all_the_same() -> None:
    made = word_tokenizer(["a"])
    made.backend_tokenizer.normalizer = normalizers.Replace(Regex("[x ]"), "")
    made.backend_tokenizer.post_processor = processors.TemplateProcessing(single="$A", pair="$A $B")
    encoder = Encoder(made, max_prompt_tokens=8, max_answer_tokens=4)
    assert PlainText(made).ids("xx") == []
    assert encoder.prompt("xx") == [encoder.eos]
    found = encoder.encode(Example("q", "xx", "a"))
    assert (found.prompt_tokens, found.tokens[0], found.tokens[-1]) == (1, encoder.eos, encoder.eos)


def test_a_tokenizer_that_fails_on_a_text_does_not_repeat_it() -> None:
    made = word_tokenizer(["a"])
    pattern = Regex("(([a-z ])+.)+[A-Z]([a-z])+$")
    made.backend_tokenizer.pre_tokenizer = pre_tokenizers.Split(pattern, "isolated")
    with pytest.raises(BaseModelError, match="fails on a text") as caught:
        PlainText(made).ids("canary " * 40)
    assert "canary" not in caught.value.message
