"""Canaries: planted truth under targets that remember exactly some of them, prompts, kept seeds, one real run."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from proper_model.checks import load_base
from proper_model.errors import BaseModelError, CheckpointError, ConfigError, DataError
from proper_model.model import AdaptedModel, base_pass
from proper_model.settings import StageSettings, load_profile, preset
from proper_model.tasks import Example, load_task
from proper_model.text import Encoder
from simulations.cli import run_cli
from simulations.outcome.results import write_document
from simulations.privacy.membership import targets
from simulations.privacy.membership.population import Candidates
from simulations.privacy.memorization import seeds as module
from simulations.privacy.memorization.asking import (
    Found,
    Questions,
    ask_canaries,
    ask_records,
    look_for_records,
    questions,
)
from simulations.privacy.memorization.attacks import Setup
from simulations.privacy.memorization.new_tokens import token_names, with_new_tokens
from simulations.privacy.memorization.planting import (
    SECRET_WORDS,
    Planted,
    Pool,
    check_task,
    plant,
    word_pool,
)
from simulations.privacy.memorization.prompts import METHODS, UNSEEN, seen_target
from simulations.privacy.memorization.recall import Recall, Target, exposures, model_target
from simulations.privacy.memorization.seeds import Plan, canaries_of, prepared
from simulations.privacy.results.canary_schema import read_canaries
from simulations.privacy.results.canary_show import failed_controls, shown, thing_table
from simulations.privacy.results.leaving import render
from simulations.privacy.results.options import counts
from simulations.privacy.statistics.exposure import CHANCE_BITS, chance_bits
from simulations.privacy.statistics.shares import Control
from simulations.synthetic.people import make_synthetic
from simulations.synthetic.tiny_base import Pretraining, make_tiny_base
from tests.tiny import VOCABULARY, tiny_base, words

OTHERS = 31
MOST, CHANCE = math.log2(1 + OTHERS), chance_bits(OTHERS)
ALIKE = MOST - math.log2(1 + OTHERS / 2)  # all candidates are as likely


@pytest.fixture(scope="module")
def candidates() -> Candidates:
    made = make_synthetic("synth_text", preset="smoke")
    users = (*made.population.pooled, *made.population.test)
    task = load_task("synth_text")
    return Candidates("people", users, task, "base", 0.0)


def planted(candidates: Candidates, seed: int = 0, *, tokens: bool = False) -> Planted:
    words = word_pool(candidates.users)
    pool = Pool(words, words, SECRET_WORDS)
    if tokens:
        pool = Pool(words, token_names(2 * len(candidates.users) + OTHERS), 1)
    return plant(
        *(candidates.users, candidates.task, pool),
        seed=seed,
        insertions=(1, 4, 16),
        candidates=OTHERS,
    )


@pytest.mark.parametrize("tokens", [False, True])
def test_canaries_stand_there_as_often_as_drawn_and_candidates_nowhere(
    candidates: Candidates, tokens: bool
) -> None:
    made, task = planted(candidates, tokens=tokens), candidates.task
    for pooled in (True, False):
        times = [
            one.times
            for one, inside in zip(made.planted, made.draw.pooled, strict=True)
            if inside == pooled
        ]
        assert sorted(times) == sorted(np.resize((1, 4, 16), len(times)).tolist())
    answers = [[task.history_example(item).answer for item in known] for known in made.draw.known]
    everything = [answer for own in answers for answer in own]
    for own, items, canary, absent in zip(
        answers, made.own, made.planted, made.absent, strict=True
    ):
        assert own.count(canary.secret) == canary.times
        assert len(own) == len(items) + canary.times
        assert absent.times == 0 and absent.secret not in everything
        assert not set(canary.candidates) & set(everything)
        assert len({canary.secret, *canary.candidates}) == 1 + OTHERS
    ids = [item.id for known in made.draw.known for item in known if "canary" not in item.id]
    assert sorted(ids) == sorted(item.id for own in made.own for item in own)
    again = planted(candidates, tokens=tokens)
    assert made == again and made.planted != planted(candidates, 1, tokens=tokens).planted


def test_every_canary_is_ranked_among_its_own_candidates() -> None:
    own, others = np.array([9.0, 0.0, 5.0]), np.array([[1.0, 5.5, 7.0], [1, 2, 3], [6, 1, 1]])
    assert exposures(own, others) == pytest.approx([2, 0, 1])
    assert chance_bits(3) == pytest.approx(2 - (0 + 1 + math.log2(3) + 2) / 4)
    assert chance_bits(100_000) == pytest.approx(CHANCE_BITS, abs=1e-3)


def test_sampled_extraction_is_the_chance_of_one_in_so_many() -> None:
    p = np.array([1.0, 0.25, 1e-12, 0.0])
    with np.errstate(divide="ignore"):
        found = Recall(np.log(p), np.ones(4, np.int64), p > 0.5)
    assert found.sampled(3) == pytest.approx([1, 1 - 0.75**3, 3e-12, 0])
    rng = np.random.default_rng(0)
    drawn = (rng.random((20_000, 3)) < 0.25).any(1).mean()
    assert found.sampled(3)[1] == pytest.approx(drawn, abs=0.01)


def remembers(asked: Questions, times: int, seed: int) -> Target:
    """A target that knows the secrets that were planted so often, and finds all other texts at random."""
    known = {one.secret for _, one in asked.canaries if one.times >= times}
    rng = np.random.default_rng(seed)

    def recall(rows: Sequence[tuple[int, Example]]) -> Recall:
        hit = np.array([example.answer in known for _, example in rows])
        log_prob = np.where(hit, -0.1, -20 + rng.normal(size=len(rows)))
        return Recall(log_prob, np.full(len(rows), 4), hit)

    return recall


def test_a_target_that_remembers_what_stood_there_16_times_exposes_that_alone(
    candidates: Candidates,
) -> None:
    rows: dict[int, list[np.ndarray[Any, Any]]] = {}
    for seed in range(8):
        made = planted(candidates, seed)
        asked = questions(made, range(len(candidates.users)), candidates.task)
        for found in ask_canaries(
            *("adapter", "none", remembers(asked, 16, seed), asked, candidates.task),
            public=None,
            samples=100,
        ):
            assert found.control == ("none" if found.insertions else "negative")
            rows.setdefault(found.insertions, []).append(found.exposure)
            remembered = found.insertions == 16
            assert (found.greedy == remembered).all()
            assert (found.sampled > 0.99).all() == remembered
    assert sorted(rows) == [0, 1, 4, 16]
    assert (np.concatenate(rows.pop(16)) == MOST).all()
    for others in rows.values():
        values = np.concatenate(others)
        assert values.mean() == pytest.approx(CHANCE, abs=4 * 1.44 / len(values) ** 0.5)


def test_what_the_public_base_finds_likely_anyway_is_no_exposure(candidates: Candidates) -> None:
    asked = questions(planted(candidates), range(6), candidates.task)
    secrets = {canary.secret for _, canary in asked.canaries}

    def likes(rows: Sequence[tuple[int, Example]]) -> Recall:
        hit = np.array([example.answer in secrets for _, example in rows])
        return Recall(np.where(hit, -1.0, -9.0), np.full(len(rows), 4), hit)

    public = likes(asked.secrets(candidates.task)).log_prob
    for found in ask_canaries(
        *("adapter", "none", likes, asked, candidates.task), public=public, samples=9
    ):
        assert (found.exposure == MOST).all()
        assert found.against_public == pytest.approx(ALIKE)


def test_a_server_sees_what_stands_in_its_prompts_and_nothing_else(candidates: Candidates) -> None:
    asked = questions(planted(candidates), (0, 1), candidates.task)
    shown = [example for (slot, example), own in zip(asked.records, asked.member, strict=True)
             if own and slot == 0][:3]  # fmt: skip
    secret = asked.canaries[0][1].secret
    others = next(example.answer for slot, example in asked.records if slot == 1)
    prompts = [["before: " + one.answer.upper() + "\n" for one in shown], [""]]
    prompts[0] += [f"so {secret}  ", others]
    target = seen_target(prompts)
    canaries = ask_canaries("rag-1", "none", target, asked, candidates.task, public=None, samples=5)
    for found in canaries:
        seen = (found.owner == 0) & (found.insertions == asked.canaries[0][1].times)
        assert (found.greedy == seen).all() and found.sampled == pytest.approx(seen * 1.0)
        assert found.exposure == pytest.approx(np.where(seen, MOST, ALIKE))
    (records,) = look_for_records("rag-1", "none", target, asked)
    answers = {one.answer for one in shown}
    for (slot, example), produced in zip(asked.records, records.produced, strict=True):
        assert produced == (slot == 0 and example.answer in answers)
    assert target([(0, Example("", "", ""))]).log_prob == pytest.approx([UNSEEN])


@pytest.mark.parametrize(
    ("task", "template", "kind"),
    [("synth_tag", None, "free text"), ("synth_text", "raw", "questions show nothing")],
)
def test_tasks_that_hold_no_secret_are_refused(task: str, template: str | None, kind: str) -> None:
    chosen = load_task(task, template=template and f"short+{template}")
    with pytest.raises(ConfigError, match=kind):
        check_task(chosen)


def test_too_few_words_people_or_numbers_are_refused(candidates: Candidates) -> None:
    with pytest.raises(DataError, match="plain words"):
        word_pool(candidates.users[:1])
    asked = questions(planted(candidates), (0, 1), candidates.task)
    with pytest.raises(DataError, match="nobody of 2 people"):
        asked.check((1, 4, 16))
    for text in ("0,1", "1,65", "one", ""):
        with pytest.raises(ConfigError, match="--insertions"):
            counts(text, "--insertions")
    assert counts("16,1,1", "--insertions") == (1, 16)


def plan(candidates: Candidates, **changed: Any) -> Plan:
    words = word_pool(candidates.users)
    pool = Pool(words, words, SECRET_WORDS)
    setup = Setup(
        *(candidates, preset("default"), load_profile("demo"), pool, (1, 4, 16), OTHERS, 100)
    )
    given: dict[str, Any] = {
        "design": "random",
        "seeds": (0, 1),
        "things": ("adapter", "rag-1"),
    } | changed
    return Plan(setup, **given)


def fake_attacker(trained: list[int]) -> Callable[..., Any]:
    """In place of training: adapters remember 16 copies, servers see nothing."""

    class Fake:
        def __init__(self, setup: Setup, *, seed: int, **_: Any) -> None:
            trained.append(seed)
            self.setup, self.seed = setup, seed

        def run(self, things: Sequence[str]) -> Found:
            task, found = self.setup.candidates.task, Found()
            asked = questions(planted(self.setup.candidates, self.seed), range(24), task)
            kinds: dict[Control, int] = {"none": 16, "positive": 1, "negative": 17}
            for thing in things:
                for control, times in kinds.items():
                    target = remembers(asked, times, self.seed)
                    if thing in METHODS:
                        target = seen_target([[""]] * 24)
                    rows = asked if control == "none" else asked.only_planted()
                    found.canaries += ask_canaries(
                        thing, control, target, rows, task, public=None, samples=100
                    )
                    if thing in METHODS:
                        found.records += look_for_records(thing, control, target, asked)
                    else:
                        found.records += ask_records(thing, control, target, asked, public=None)
            return found

    return Fake


def test_finished_seeds_are_kept_and_rows_say_what_was_found(
    candidates: Candidates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[int] = []
    monkeypatch.setattr(module, "CanaryAttacker", fake_attacker(trained))
    monkeypatch.setattr(module, "DRAWS", 200)
    how: dict[str, Any] = {"out": tmp_path, "cache": tmp_path, "progress": lambda *_: None}
    first = canaries_of(plan(candidates), **how)
    again = canaries_of(plan(candidates, seeds=(0, 1, 2)), **how)
    assert trained == [0, 1, 2]
    known, server = again.canary("adapter", 16), again.canary("rag-1", 16)
    assert (
        known is not None
        and server is not None
        and known.per_seed[:2] == first.canary("adapter", 16).per_seed
    )  # type: ignore[union-attr]
    assert known.pooled.against_public.value == again.most == 5
    assert known.pooled.greedy.value == 1 and known.pooled.greedy.low < 0.9
    assert known.p_holm < 0.05 and server.pooled.exposure.value == pytest.approx(ALIKE)
    assert server.pooled.greedy.high > 0
    assert not [line for line in failed_controls(again) if "word" in line or "cannot" in line]
    assert "16 times: 5.0 bits" in again.sentences[0] and "saw in clear 0%" in again.sentences[1]
    assert len(thing_table(again).rows) == 2 and "What leaks: canaries" in render(
        again, shown(again)
    )
    write_document(again, tmp_path / "canaries.json")
    assert thing_table(read_canaries(tmp_path / "canaries.json")) == thing_table(again)
    with pytest.raises(CheckpointError):
        canaries_of(plan(candidates, things=("adapter",)), **how)
    (tmp_path / "seeds" / "0.json").write_text('{"digest": 1')
    with pytest.raises(CheckpointError, match="damaged"):
        canaries_of(plan(candidates), **how)


@pytest.mark.parametrize("changed", [{"things": ()}, {"things": ("nothing",)}])
def test_unknown_things_are_refused(candidates: Candidates, changed: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        plan(candidates, **changed)


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (["demo"], ConfigError.exit_code),
        (["demo:text", "--insertions", "0"], ConfigError.exit_code),
        (["demo:text", "--things", "adapter,wallet"], ConfigError.exit_code),
        (["demo:text", "--seeds", "one"], ConfigError.exit_code),
        (["nowhere", "--task", "LaMP_5", "--base", "base"], DataError.exit_code),
    ],
)
def test_bad_options_end_before_anything_is_trained(
    tmp_path: Path, options: list[str], code: int
) -> None:
    assert run_cli(["privacy", "canaries", *options, "--out", str(tmp_path / "out")]) == code
    assert not (tmp_path / "out").exists()


def test_a_models_recall_is_what_it_would_generate() -> None:
    base = tiny_base()
    model = AdaptedModel(base, preset("default"), generator=torch.Generator().manual_seed(0))
    encoder = Encoder(words(), max_prompt_tokens=16, max_answer_tokens=8)
    asked, expected = [], []
    for number in range(12):
        prompt = f"w{number} w{3 * number} w7"
        tokens = encoder.prompt(prompt)
        for _ in range(2):
            tokens = [*tokens, int(base(torch.tensor([tokens])).logits[0, -1].argmax())]
        likeliest = encoder.decode(tokens[-2:])
        half = f"{encoder.decode(tokens[-2:-1])} w{number}"  # only its first word is the likeliest
        for answer in (likeliest, half, "w1 w2"):
            item = encoder.encode(Example("", prompt, answer))
            log_p = base(torch.tensor([item.tokens])).logits[0].log_softmax(-1)
            own = item.tokens[item.prompt_tokens : -1]
            total = sum(float(log_p[item.prompt_tokens - 1 + i, t]) for i, t in enumerate(own))
            asked.append((0, Example("", prompt, answer)))
            expected.append((total, len(own), list(own) == tokens[-2:]))
    found = model_target(model, encoder, base_pass, tokens=64)(asked)
    assert found.log_prob == pytest.approx([total for total, _, _ in expected], abs=1e-4)
    assert found.tokens.tolist() == [count for _, count, _ in expected]
    assert found.greedy.tolist() == [right for _, _, right in expected]
    assert 6 <= found.greedy.sum() <= 12
    assert not model_target(model, encoder, base_pass, tokens=64)(
        [(0, Example("", "w1", ""))]
    ).greedy


@pytest.mark.parametrize("tied", [False, True])
def test_new_tokens_are_one_token_each_and_leave_the_base_as_it_was(
    tmp_path: Path, tied: bool
) -> None:
    old = tiny_base(dtype=torch.float32, tie_word_embeddings=tied)
    old.save_pretrained(tmp_path / "base")
    words().save_pretrained(tmp_path / "base")
    made, names = with_new_tokens(str(tmp_path / "base"), 5, tmp_path / "bases")
    model, tokenizer = load_base(str(made))
    encoder = Encoder(tokenizer, max_prompt_tokens=16, max_answer_tokens=8)
    for place, name in enumerate(names):
        item = encoder.encode(Example("", "w1 w2", name))
        assert item.tokens[item.prompt_tokens :] == (VOCABULARY + place, encoder.eos)
        assert encoder.decode(item.tokens[item.prompt_tokens :]) == name
    tables = [model.get_input_embeddings().weight, model.get_output_embeddings().weight]
    before = [old.get_input_embeddings().weight, old.get_output_embeddings().weight]
    for table, known in zip(tables, before, strict=True):
        assert len(table) == VOCABULARY + 5 and torch.equal(table[:VOCABULARY], known)
        assert len(torch.unique(table[VOCABULARY:], dim=0)) == 5
    assert torch.equal(*tables) == tied
    assert with_new_tokens(str(tmp_path / "base"), 5, tmp_path / "bases")[0] == made
    with pytest.raises(BaseModelError, match="named"):
        with_new_tokens(str(made), 5, tmp_path / "bases")


def quick() -> StageSettings:
    """Enough passes that an overfit adapter remembers, and no more."""
    demo = load_profile("demo")
    return dataclasses.replace(
        demo,
        population=dataclasses.replace(demo.population, epochs=1),
        group=dataclasses.replace(demo.group, epochs=1),
        router=dataclasses.replace(demo.router, epochs=1),
        user=dataclasses.replace(demo.user, epochs=2, embedding_epochs=1, held_back_folds=1),
    )


def test_end_to_end_on_a_few_people(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = make_synthetic("synth_text", preset="smoke", pretrain=120)
    few = Pretraining(epochs=2)
    base = make_tiny_base(tmp_path, made.pretrain_texts, vocabulary=made.vocabulary, training=few)
    people = Candidates("few", made.population.pooled[:8], load_task("synth_text"), str(base), 0.0)
    monkeypatch.setattr(targets, "LEAST_OVERFIT_EPOCHS", 15)
    plan = prepared(
        *(people, dataclasses.replace(preset("default"), embedding_dim=16), quick()),
        design="new-token",
        seeds=(0,),
        insertions=(1, 4),
        others=OTHERS,
        samples=10,
        things=("adapter", "release", "rag-1", "full-history"),
        bases=tmp_path,
    )
    how: dict[str, Any] = {"out": tmp_path, "cache": tmp_path, "progress": lambda *_: None}
    result = canaries_of(plan, **how)
    for thing in ("adapter", "release"):
        overfit = result.canary(thing, 4, "positive")
        assert overfit is not None and overfit.pooled.against_public.value > MOST - 1
        absent = result.canary(thing, 0)
        assert absent is not None and absent.pooled.greedy.value == 0
    shown, record = result.canary("full-history", 1), result.record("full-history")
    assert shown is not None and shown.pooled.greedy.value == 1
    assert record is not None and record.pooled.auc == 1 and record.produced_apart.value == 0
    assert [row.control for row in result.records if row.thing == "rag-1"] == ["none", "negative"]
    monkeypatch.setattr(module, "CanaryAttacker", None)
    again = canaries_of(plan, **how)
    assert again.canaries == result.canaries and again.sentences == result.sentences
