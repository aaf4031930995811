"""What a person sees of progress: names in words, and a line now and then where there is no bar."""

from __future__ import annotations

import pytest

from client.terminal.console import EVERY_S, plain_progress
from proper_model.federation.protocol import Kind
from simulations.outcome.phases import phase_name


def test_a_log_hears_of_each_phase_once_and_then_twice_a_minute(
    capsys: pytest.CaptureFixture[str],
) -> None:
    now = [0.0]
    show = plain_progress(phase_name, lambda: now[0])
    for second in range(0, 100, 2):
        now[0] = float(second)
        show("group", second, 552)
    show("scoring", 0, 0)
    now[0] += EVERY_S
    show("scoring", 0, 0)
    show("scoring", 7, 0)
    assert capsys.readouterr().err.splitlines() == [
        "proper: stage 2, groups",
        "proper: stage 2, groups 30/552",
        "proper: stage 2, groups 60/552",
        "proper: stage 2, groups 90/552",
        "proper: scoring",
        "proper: scoring 7",
    ]


@pytest.mark.parametrize(
    ("phase", "name"),
    [
        ("query.have", "asking devices what they lack"),
        ("evaluate: stage1", "predicting: stage1"),
        ("fold 2 of 3: personalize: embedding", "fold 2 of 3: personalizing: embedding"),
        ("fold 1 of 3: population", "fold 1 of 3: stage 1, population"),
        ("writing devices", "writing devices"),
    ],
)
def test_phases_have_names_in_words(phase: str, name: str) -> None:
    assert phase_name(phase) == name


@pytest.mark.parametrize("kind", Kind)
def test_no_message_kind_is_shown_as_it_travels(kind: Kind) -> None:
    assert phase_name(kind.value) != kind.value
