"""The tiny base: the same inputs give the same model, which knows the language and no user."""

from __future__ import annotations

import pytest
import torch

from proper_model.checks.outside_base import load_base
from proper_model.errors import BaseModelError, TrainingError
from proper_model.tasks.task import load_task
from proper_model.text.encoding import Encoder
from simulations.synthetic import tiny_base
from simulations.synthetic.films import TAGS
from simulations.synthetic.people import make_synthetic
from simulations.synthetic.tiny_base import Pretraining, make_tiny_base, sketch_tiny_base

BRIEF = Pretraining(epochs=1)
TEXTS = [
    "a shy poet writes verses tag: based on a book",
    "a proud spy steals a code tag: action",
] * 40


@pytest.fixture(scope="module")
def films():
    return make_synthetic("synth_tag", preset="smoke")


@pytest.fixture(scope="module")
def trained(films, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bases")
    made = make_tiny_base(
        folder,
        films.pretrain_texts,
        vocabulary=films.vocabulary,
        training=Pretraining(epochs=12),
    )
    return load_base(str(made))


def test_same_inputs_same_model(tmp_path):
    one = make_tiny_base(tmp_path / "a", TEXTS, training=BRIEF)
    before = torch.get_num_threads(), torch.random.get_rng_state()
    torch.manual_seed(99)
    two = make_tiny_base(tmp_path / "b", TEXTS, training=BRIEF)
    assert one.name == two.name
    weights = "model.safetensors"
    assert (one / weights).read_bytes() == (two / weights).read_bytes()
    other = make_tiny_base(tmp_path / "a", TEXTS, training=BRIEF, seed=1)
    assert other.name != one.name
    assert (other / weights).read_bytes() != (one / weights).read_bytes()
    torch.random.set_rng_state(before[1])
    assert torch.get_num_threads() == before[0]


def test_caller_keeps_its_random_numbers(tmp_path):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    make_tiny_base(tmp_path, TEXTS, training=BRIEF)
    assert torch.equal(torch.rand(3), expected)


def test_second_call_finds_the_first_result(tmp_path):
    steps: list[tuple[int, int]] = []
    made = make_tiny_base(tmp_path, TEXTS, training=BRIEF, progress=lambda *s: steps.append(s))
    assert steps == [(1, 2), (2, 2)]
    again = make_tiny_base(tmp_path, TEXTS, training=BRIEF, progress=lambda *s: steps.append(s))
    assert again == made
    assert len(steps) == 2
    longer = make_tiny_base(tmp_path, [*TEXTS, TEXTS[0]], training=BRIEF)
    assert longer != made


def test_a_sketch_is_the_base_that_would_be_made_without_its_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(tiny_base, "_pretrain", lambda *_: None)
    made = make_tiny_base(tmp_path / "made", TEXTS, vocabulary=["film"], seed=3)
    sketch = sketch_tiny_base(tmp_path / "s", TEXTS, vocabulary=["film"], seed=3)
    assert sketch.name == made.name
    described = {p.name for p in sketch.iterdir()}
    assert {p.name for p in made.iterdir()} == described | {"model.safetensors"}
    for name in described:
        assert (sketch / name).read_bytes() == (made / name).read_bytes(), name


def test_a_failed_build_leaves_nothing(tmp_path, monkeypatch):
    def fail(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tiny_base, "save_file", fail)
    with pytest.raises(OSError, match="No space"):
        make_tiny_base(tmp_path, TEXTS, training=BRIEF)
    assert not list(tmp_path.iterdir())


def test_shape(trained):
    model, tokenizer = trained
    config = model.config
    assert (config.hidden_size, config.intermediate_size, config.num_hidden_layers) == (64, 172, 2)
    assert len(tokenizer) <= 600
    vocabulary = len(tokenizer)
    blocks = 2 * (4 * 64 * 64 + 3 * 64 * 172 + 2 * 64)
    assert sum(p.numel() for p in model.parameters()) == 2 * vocabulary * 64 + blocks + 64


def test_tags_survive_the_tokenizer(trained):
    encoder = Encoder(trained[1], max_prompt_tokens=64, max_answer_tokens=16)
    task = load_task("synth_tag")
    assert task.labels == TAGS
    for tag in TAGS:
        ids = trained[1](tag, add_special_tokens=False)["input_ids"]
        assert len(ids) == len(tag.split())
        assert encoder.decode([*ids, encoder.eos]) == tag


def test_prompts_hold_no_unknown_word_and_are_short(films, trained):
    tokenizer = trained[1]
    encoder = Encoder(tokenizer, max_prompt_tokens=64, max_answer_tokens=16)
    task = load_task("synth_tag")
    for user in films.population.test:
        for query in user.queries:
            example = task.query_example(query)
            encoded = encoder.encode(example)
            assert encoded.tokens[0] == tokenizer.bos_token_id
            assert encoded.tokens[-1] == tokenizer.eos_token_id
            assert tokenizer.unk_token_id not in encoded.tokens
            assert encoded.answer_tokens == len(example.answer.split()) + 1
            assert len(encoded.tokens) <= 25
    assert tokenizer("zeppelin", add_special_tokens=False)["input_ids"] == [tokenizer.unk_token_id]


@torch.no_grad()
def next_words(model, tokenizer, prompts):
    """The most likely next word of every prompt."""
    said = []
    for prompt in prompts:
        ids = torch.tensor([tokenizer(prompt)["input_ids"]])
        said.append(tokenizer.decode(model(input_ids=ids).logits[0, -1].argmax()))
    return said


def test_base_knows_topics_and_format_but_no_user(films, trained):
    model, tokenizer = trained
    fresh = make_synthetic("synth_tag", preset="smoke")
    task = load_task("synth_tag")
    queries = [(user, query) for user in fresh.population.test for query in user.queries]
    texts = [task.query_text(query)["text"] for _, query in queries]
    topics = [films.truth["detail"][query.id]["topic"] for _, query in queries]
    named = next_words(model, tokenizer, [f"{text} about:" for text in texts])
    assert sum(a == b for a, b in zip(named, topics, strict=True)) > 0.9 * len(topics)
    tags = next_words(model, tokenizer, [f"{text} tag:" for text in texts])
    starts = {tag.split()[0] for tag in TAGS}
    assert set(tags) <= starts
    hits = sum(tag == query.gold.split()[0] for tag, (_, query) in zip(tags, queries, strict=True))
    assert hits < 0.35 * len(queries)


def test_padding_does_not_change_the_loss():
    """Rows of unequal length weigh by their tokens, as if each stood alone."""
    torch.manual_seed(0)
    model = tiny_base.tiny_llama(20, tiny_base.TinyShape(width=8, ffn=16, heads=2), pad=0)
    rows = [[1, 5, 6, 7, 2], [1, 8, 2], [1, 9, 10, 11, 12, 13, 2]]
    together = tiny_base._loss(model, rows, 0)
    alone = [(tiny_base._loss(model, [row], 0), len(row) - 1) for row in rows]
    expected = sum(loss * n for loss, n in alone) / sum(n for _, n in alone)
    assert torch.allclose(together, expected, atol=1e-6)


def test_refuses_what_does_not_fit(tmp_path):
    with pytest.raises(BaseModelError, match="no texts"):
        make_tiny_base(tmp_path, [])
    with pytest.raises(BaseModelError, match="601 words"):
        make_tiny_base(tmp_path, [" ".join(f"w{i}" for i in range(601))])
    with pytest.raises(BaseModelError, match="a text of 202 tokens"):
        make_tiny_base(tmp_path, ["word " * 200])
    with pytest.raises(TrainingError, match="not finite"):
        make_tiny_base(tmp_path, TEXTS, training=Pretraining(epochs=40, learning_rate=1e30))
