"""Answers mixed from two passes: a float64 loop over each row alone, without a cache, is the oracle."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from proper_model.answering.batched import Answer, Question, answer_queries
from proper_model.answering.decoding import greedy
from proper_model.answering.streaming import stream_tokens
from proper_model.kernels.packing import Encoded
from proper_model.model.adapted_model import AdaptedModel
from proper_model.model.mixture import MakePass, MixedRows, Mixture
from proper_model.model.passes import Pass, base_pass, group_pass
from proper_model.settings.presets import RouterText, Structure, preset
from tests.test_scoring import QUERIES, make_encoder
from tests.tiny import adapted, embeddings_of, encoder, samples, stage3_pass

SHARES = ((0.0, 0.6), (0.3, 1.0), (0.55, 1.7), (1.0, 1.4), (1.0, 1.0))
USERS = len(SHARES)
LIMIT = 5
POOLED = replace(preset("default"), name="pooled", router_text=RouterText.POOLED)


class Setting:
    """Five people, stage 3 over stage 2; `oppu` is an adapter over the base alone."""

    def __init__(self, structure: Structure | str = "default", *, oppu: bool = False) -> None:
        self.model = adapted(structure, users=USERS)
        embeddings = embeddings_of(self.model, USERS)
        self.above: MakePass = lambda slots: stage3_pass(self.model, slots, embeddings)
        self.below: MakePass = lambda slots: group_pass(slots, embeddings)
        if oppu:
            self.above = lambda slots: replace(base_pass(slots), lora=True)
            self.below = base_pass
        self.mixture = Mixture(self.above, self.below, SHARES)

    def of(self, slot: int) -> Mixture:
        """The mixture of one person, who alone is asked, in slot 0."""
        return Mixture(
            lambda slots: self.above(slots + slot),
            lambda slots: self.below(slots + slot),
            [SHARES[slot]],
        )

    def probabilities(self, slot: int, tokens: Sequence[int], prompt: int) -> Tensor:
        """p at every token [T, V], both passes computed anew for one row: w p_a + (1 - w) p_b."""
        mask = (torch.arange(len(tokens)) < prompt)[None]
        found = []
        for make_pass in (self.above, self.below):
            now = replace(make_pass(torch.tensor([slot])), prompt_mask=mask)
            with torch.no_grad(), self.model.attached(), self.model.running(now):
                logits = self.model.base(torch.tensor([list(tokens)])).logits[0]
            found.append(logits.double().softmax(-1))
        weight = SHARES[slot][0]
        return weight * found[0] + (1 - weight) * found[1]

    def says(self, slot: int, prompt: Sequence[int], end: int, most: int = LIMIT) -> list[int]:
        """The greedy answer, its end included."""
        text = list(prompt)
        while len(text) < len(prompt) + most and (len(text) == len(prompt) or text[-1] != end):
            text.append(int(self.probabilities(slot, text, len(prompt))[-1].argmax()))
        return text[len(prompt) :]


@pytest.fixture(params=["default", "paper", "pooled", "oppu-mlp"])
def setting(request: pytest.FixtureRequest) -> Setting:
    """Every preset that mixes differently, and a private LoRA over the base alone."""
    if request.param == "oppu-mlp":
        return Setting(oppu=True)
    return Setting(POOLED if request.param == "pooled" else request.param)


def prompts_of(count: int) -> list[tuple[int, ...]]:
    return [one.tokens[: one.prompt_tokens] for one in samples(count, seed=4)]


def test_batched_decoding_is_a_plain_loop_over_mixed_probabilities(setting: Setting) -> None:
    """Rows of unequal length, weight and temperature; one ends early, others go on behind it."""
    words = encoder()
    prompts, slots = prompts_of(7), [*range(USERS), 1, 2]
    endless = [setting.says(s, p, end=-1) for s, p in zip(slots, prompts, strict=True)]
    words.eos = endless[1][1]
    expected = [setting.says(s, p, words.eos) for s, p in zip(slots, prompts, strict=True)]
    tokens, _ = greedy(setting.model, words, prompts, slots, setting.mixture, max_new_tokens=LIMIT)
    for found, wanted in zip(tokens.tolist(), expected, strict=True):
        assert found == wanted + [words.pad] * (len(found) - len(wanted))
    assert min(map(len, expected)) < LIMIT, "no row ended early"
    assert max(map(len, expected)) == LIMIT, "every row ended early"
    for slot, prompt, wanted in zip(slots, prompts, expected, strict=True):
        alone = setting.of(slot)
        streamed = stream_tokens(setting.model, words, prompt, alone, max_new_tokens=LIMIT)
        assert list(streamed) == [token for token in wanted if token != words.eos]


def test_a_mixed_answer_is_neither_passs_own() -> None:
    """Or the oracle would agree with a loop that reads one pass only."""
    setting = Setting()
    prompts, slots = prompts_of(12), [2] * 12

    def said(one: MakePass | Mixture) -> list[list[int]]:
        made, _ = greedy(setting.model, encoder(), prompts, slots, one, max_new_tokens=LIMIT)
        return [row.tolist() for row in made]

    rows = list(zip(said(setting.mixture), said(setting.above), said(setting.below), strict=True))
    assert any(mixed not in (above, below) for mixed, above, below in rows)


LABELS = ("1", "2", "3", "4", "5")


def answers(
    setting: Setting, one: MakePass | Mixture, asked: Sequence[tuple[int, Any]], **knobs: Any
) -> list[Answer]:
    return answer_queries(
        setting.model,
        make_encoder(),
        [Question(slot, example, knobs.get("labels", LABELS), 4) for slot, example in asked],
        one,
        tokens_per_step=knobs.get("tokens_per_step", 1000),
    )


ASKED = [(slot, example) for slot in range(USERS) for _, example in (QUERIES[0], QUERIES[1])]


def test_losses_and_expected_scores_are_of_the_mixture_at_its_temperature(
    setting: Setting,
) -> None:
    words = make_encoder()
    for (slot, example), found in zip(ASKED, answers(setting, setting.mixture, ASKED), strict=True):
        sample = words.encode(example)
        p = setting.probabilities(slot, sample.tokens, sample.prompt_tokens)
        p = p ** (1 / SHARES[slot][1])
        p = p / p.sum(-1, keepdim=True)
        at = range(sample.prompt_tokens - 1, len(sample.tokens) - 1)
        assert found.nll == pytest.approx(
            -sum(math.log(p[t, sample.tokens[t + 1]]) for t in at), abs=1e-6
        )
        shares = [float(p[at[0], words.tokenizer.words[label]]) for label in LABELS]
        expected = sum(k * s for k, s in enumerate(shares, start=1)) / sum(shares)
        assert found.expected == pytest.approx(expected, abs=1e-6)
        prompt = words.prompt(example.prompt)
        assert found.output == words.decode(setting.says(slot, prompt, words.eos, most=4))


def test_an_answer_does_not_depend_on_who_else_is_asked() -> None:
    setting = Setting()
    together = answers(setting, setting.mixture, ASKED)
    cut = answers(setting, setting.mixture, ASKED, tokens_per_step=12)
    for one, other in zip(together, cut, strict=True):
        assert one.output == other.output
        assert one.nll == pytest.approx(other.nll, abs=1e-6)


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Rows of every forward pass through the base."""
    seen: list[int] = []
    real = AdaptedModel.running

    def noted(self: AdaptedModel, now: Pass) -> Any:
        seen.append(len(now.slots))
        return real(self, now)

    with monkeypatch.context() as patch:
        patch.setattr(AdaptedModel, "running", noted)
        yield seen


def test_only_those_who_need_two_passes_pay_for_two(monkeypatch: pytest.MonkeyPatch) -> None:
    setting = Setting()
    whole = [q for q in ASKED if q[0] in (3, 4)]
    with counted(monkeypatch) as above:
        answers(setting, setting.above, whole)
    with counted(monkeypatch) as unmixed:
        answers(setting, setting.mixture, whole)
    assert unmixed == above
    nobody = [q for q in ASKED if q[0] == 0]
    with counted(monkeypatch) as below:
        answers(setting, setting.below, nobody)
    with counted(monkeypatch) as none:
        answers(setting, setting.mixture, nobody)
    assert none == below
    with counted(monkeypatch) as together:
        answers(setting, setting.mixture, [*whole, *nobody])
    assert together == above + below, "those of one pass are asked apart"
    assert setting.mixture.passes == 2
    assert Mixture(setting.above, setting.below, [(0.0, 1.0), (1.0, 1.0)]).passes == 1


def test_nobody_mixed_is_todays_pass_to_the_bit() -> None:
    setting = Setting()
    rows = Mixture(setting.above, setting.below, [(1.0, 1.0)] * USERS).over(torch.arange(USERS))
    logits = torch.randn(USERS, 7)
    assert len(rows.passes) == 1
    assert rows.logits([logits]) is logits
    plain = Mixture(setting.above, setting.below, [(1.0, 1.0)] * USERS)
    assert answers(setting, plain, ASKED) == answers(setting, setting.above, ASKED)


def test_mixed_logits_by_hand() -> None:
    """p_a = (.5, .25, .25), p_b = (.1, .1, .8); half of each is (.3, .175, .525)."""
    above = torch.tensor([[0.5, 0.25, 0.25]] * 3).log()
    below = torch.tensor([[0.1, 0.1, 0.8]] * 3).log() + 5  # logits need no norm
    nothing: Any = None
    rows = MixedRows(
        (nothing, nothing), torch.tensor([0.5, 1.0, 0.0]), torch.tensor([1.0, 0.5, 1.0])
    )
    found = rows.logits([above, below]).softmax(-1)
    squared = [0.25 / 0.375, 0.0625 / 0.375, 0.0625 / 0.375]
    expected = torch.tensor([[0.3, 0.175, 0.525], squared, [0.1, 0.1, 0.8]])
    torch.testing.assert_close(found, expected)
    picked = rows.logits([above[:2], below[:2]], torch.tensor([2, 0])).softmax(-1)
    torch.testing.assert_close(picked, expected[[2, 0]])
    half = rows.logits([above.bfloat16(), below.bfloat16()])
    assert half.dtype is torch.float32


@pytest.mark.parametrize("architecture", ["llama", "gemma", "qwen3"])
@pytest.mark.parametrize("structure", ["default", POOLED])
def test_one_pass_decodes_as_transformers_own_loop(
    architecture: str, structure: Structure | str
) -> None:
    """Whose `generate` can mix no passes; tokens and logits, to the bit."""
    model, words = adapted(structure, architecture=architecture), encoder()
    prompts, slots = prompts_of(5), [0, 1, 2, 1, 0]
    tokens, _ = greedy(
        model, words, prompts, slots, lambda s: stage3_pass(model, s), max_new_tokens=LIMIT
    )
    words.eos = int(tokens[0, 2])
    tokens, logits = greedy(
        model, words, prompts, slots, lambda s: stage3_pass(model, s),
        max_new_tokens=LIMIT, with_logits=True,
    )  # fmt: skip
    batch = words.padded([Encoded(tuple(p), len(p)) for p in prompts], slots)
    now = replace(stage3_pass(model, batch.slots), prompt_mask=batch.prompt_mask)
    with model.attached(), model.running(now):
        theirs = model.base.generate(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            max_new_tokens=LIMIT,
            do_sample=False,
            pad_token_id=words.pad,
            eos_token_id=words.eos,
            return_dict_in_generate=True,
            output_logits=True,
        )
    assert torch.equal(tokens, theirs.sequences[:, batch.input_ids.shape[1] :])
    assert logits is not None
    assert torch.equal(logits.float(), torch.stack(theirs.logits, dim=1))


class _Widest(TorchDispatchMode):
    """The most rows of the head's weights that one operation reads, repetitions counted."""

    def __init__(self, head: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.head, self.times = head.numel(), 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for given in args:
            if isinstance(given, Tensor) and given.shape[-2:].numel() == self.head:
                self.times = max(self.times, given.numel() // self.head)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("architecture", ["llama", "gemma"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_batch_reads_the_heads_weights_once(architecture: str, dtype: torch.dtype) -> None:
    """Not once a row: in bfloat16 a CPU copies them as often, gigabytes over a large vocabulary."""
    model = adapted(architecture=architecture)
    model.base.to(dtype)
    model.float()
    prompts, slots = prompts_of(5), [0, 1, 2, 1, 0]
    with _Widest(model.base.get_output_embeddings().weight) as seen:
        greedy(
            model, encoder(), prompts, slots,
            lambda s: stage3_pass(model, s, embeddings_of(model, 3).float()), max_new_tokens=LIMIT,
        )  # fmt: skip
    assert seen.times == 1
