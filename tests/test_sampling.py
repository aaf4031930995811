"""Tokens that are drawn. Oracles: transformers' warpers, a plain loop, the expected frequencies."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from transformers import TemperatureLogitsWarper, TopPLogitsWarper

from proper_model.answering.decoding import greedy
from proper_model.answering.sampling import Sampling, nucleus, seeded
from proper_model.answering.streaming import stream_tokens
from proper_model.errors import ConfigError
from tests.test_mixed_answers import LIMIT, SHARES, Setting, prompts_of
from tests.tiny import VOCABULARY, encoder


def random_logits(seed: int = 0, rows: int = 40) -> Tensor:
    return torch.randn(rows, 50, generator=seeded(seed), dtype=torch.float64) * 3


@pytest.mark.parametrize("temperature", [0.3, 1.0, 1.7])
@pytest.mark.parametrize("top_p", [1e-6, 0.2, 0.5, 0.9, 0.999, 1.0])
def test_the_distribution_is_that_of_transformers(temperature: float, top_p: float) -> None:
    logits, nothing = random_logits(), torch.zeros(1, dtype=torch.long)
    warped = TemperatureLogitsWarper(temperature)(nothing, logits)
    if top_p < 1:
        warped = TopPLogitsWarper(top_p)(nothing, warped)
    kept = nucleus((logits / temperature).softmax(-1), top_p)
    torch.testing.assert_close(kept / kept.sum(-1, keepdim=True), warped.softmax(-1))


def test_a_nucleus_by_hand() -> None:
    p = torch.tensor([[0.1, 0.4, 0.2, 0.3]], dtype=torch.float64)
    for top_p, kept in ((0.39, [1]), (0.41, [1, 3]), (0.69, [1, 3]), (0.71, [1, 2, 3])):
        assert nucleus(p, top_p)[0].nonzero()[:, 0].tolist() == kept


def test_draws_are_as_frequent_as_they_are_probable() -> None:
    draws = 20_000
    logits = random_logits(rows=1)
    drawn = Sampling(1.5, seeded(1), 0.8).draw(logits.expand(draws, -1))
    expected = nucleus((logits / 1.5).softmax(-1), 0.8)[0]
    expected = expected / expected.sum()
    found = torch.bincount(drawn, minlength=50) / draws
    assert bool((found[expected == 0] == 0).all())
    spread = (expected * (1 - expected) / draws).sqrt()
    assert bool(((found - expected).abs() <= 5 * spread).all())


def test_a_seed_is_a_text_and_none_is_another_one_each_time() -> None:
    logits = random_logits()

    def drawn(seed: int | None) -> list[int]:
        found: list[int] = Sampling(1.0, seeded(seed)).draw(logits).tolist()
        return found

    assert drawn(7) == drawn(7)
    assert drawn(7) != drawn(8)
    assert drawn(None) != drawn(None)
    assert drawn(-(1 << 63)) == drawn(-(1 << 63))


@pytest.mark.parametrize("low", [{"temperature": 1e-300}, {"temperature": 1e-4}, {"top_p": 1e-9}])
def test_the_limits_are_greedy(low: dict[str, float]) -> None:
    logits = random_logits()
    sampling = Sampling(**{"temperature": 1.0, "generator": seeded(0), **low})
    assert torch.equal(sampling.draw(logits), logits.argmax(-1))


@pytest.mark.parametrize(("temperature", "top_p"), [(0, 1), (-1, 1), (2.1, 1), (1, 0), (1, 1.1)])
def test_values_out_of_range_are_refused(temperature: float, top_p: float) -> None:
    with pytest.raises(ConfigError, match="expected a number above 0"):
        Sampling(temperature, seeded(0), top_p)
    with pytest.raises(ConfigError):
        Sampling(float("nan"), seeded(0))


@pytest.mark.parametrize("slot", range(len(SHARES)))
def test_a_drawn_answer_is_a_plain_loop_over_the_calibrated_mixture(slot: int) -> None:
    """Both passes anew for every token, their mixture at its own temperature, then that of the draw."""
    setting, words = Setting(), encoder()
    words.eos = VOCABULARY + 1  # never drawn
    prompt, (_, calibrated) = prompts_of(1)[0], SHARES[slot]
    generator, text = seeded(3), list(prompt)
    for _ in range(LIMIT):
        p = setting.probabilities(slot, text, len(prompt))[-1]
        tempered = (p.log() / calibrated / 1.3).softmax(-1)
        text.append(int(torch.multinomial(nucleus(tempered[None], 0.9), 1, generator=generator)))
    drawn = stream_tokens(
        setting.model,
        words,
        prompt,
        setting.of(slot),
        max_new_tokens=LIMIT,
        sampling=Sampling(1.3, seeded(3), 0.9),
    )
    found = list(drawn)
    assert found == text[len(prompt) :]
    likeliest, _ = greedy(
        setting.model, words, [prompt], [0], setting.of(slot), max_new_tokens=LIMIT
    )
    assert found != likeliest[0].tolist(), "nothing was drawn"


def test_an_answer_ends_before_any_of_the_tokens_that_end_it() -> None:
    setting, words = Setting(), encoder()
    words.eos = VOCABULARY + 1  # never drawn
    prompt = prompts_of(1)[0]

    def made(*ends: int) -> tuple[list[int], bool]:
        steps = stream_tokens(
            setting.model,
            words,
            prompt,
            setting.of(0),
            max_new_tokens=LIMIT,
            sampling=Sampling(1.3, seeded(3)),
            ends=ends,
        )
        found = []
        while True:
            try:
                found.append(next(steps))
            except StopIteration as end:
                return found, end.value

    whole, done = made()
    assert (len(whole), done) == (LIMIT, False)
    end = whole[-1]
    assert made(VOCABULARY + 2, end) == (whole[: whole.index(end)], True)
