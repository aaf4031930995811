"""The visual language: every colour can be read on every ground, by WCAG's own formula."""

from __future__ import annotations

import re

import pytest

from client.look import stylesheet

GROUNDS = ("background", "surface", "sunken")
SCHEMES = ("light", "dark")
# WCAG 2.2, 1.4.3: text; 1.4.11: borders of controls and the focus ring.
TEXT = 4.5
CONTROL = 3.0
PAIRS = (
    *((ink, ground) for ink in ("text", "muted", "accent", "good", "bad") for ground in GROUNDS),
    *(("text", f"{tone}-soft") for tone in ("accent", "good", "bad")),
    *((tone, f"{tone}-soft") for tone in ("accent", "good", "bad")),
    ("on-accent", "accent"),
    *((f"on-heat-{step}", f"heat-{step}") for step in range(1, 6)),
)


def luminance(colour: str) -> float:
    """Relative luminance of #rrggbb; WCAG 2.2, "relative luminance"."""
    channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def colours() -> dict[str, dict[str, str]]:
    """Scheme -> name -> #rrggbb; what dark does not say is as in light."""
    light, dark = stylesheet().partition("*, *::before")[0].split("@media")
    found = [dict(re.findall(r"--([a-z0-9-]+): (#[0-9a-f]{6});", part)) for part in (light, dark)]
    return {"light": found[0], "dark": found[0] | found[1]}


def test_the_formula_gives_known_values() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#ffffff", "#ffffff") == 1
    # By hand: (0x77 / 255 + 0.055) / 1.055 = 0.4945, to the power of 2.4 = 0.1845; 1.05 / 0.2345
    assert contrast("#777777", "#ffffff") == pytest.approx(4.478, abs=1e-3)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_text_can_be_read_where_it_may_stand(scheme) -> None:
    of = colours()[scheme]
    low = {pair: contrast(*(of[name] for name in pair)) for pair in PAIRS}
    assert {pair: ratio for pair, ratio in low.items() if ratio < TEXT} == {}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_controls_stand_out(scheme) -> None:
    of = colours()[scheme]
    pairs = [(edge, ground) for edge in ("control", "accent", "bad") for ground in GROUNDS]
    low = {pair: contrast(*(of[name] for name in pair)) for pair in pairs}
    assert {pair: ratio for pair, ratio in low.items() if ratio < CONTROL} == {}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_more_weight_is_further_from_the_ground(scheme) -> None:
    of = colours()[scheme]
    ratios = [contrast(of[f"heat-{step}"], of["surface"]) for step in range(1, 6)]
    assert all(a * 1.15 < b for a, b in zip(ratios, ratios[1:], strict=False)), ratios


def test_every_value_that_is_used_is_defined_and_nothing_is_fetched() -> None:
    sheet = stylesheet()
    assert set(re.findall(r"var\(--([a-z0-9-]+)", sheet)) <= set(
        re.findall(r"--([a-z0-9-]+):", sheet)
    )
    assert not re.search(r"url\(|@import|@font-face|https?:", sheet)
    tokens, base = sheet.split("*, *::before", 1)
    assert not re.search(r"#[0-9a-f]{3,8}\b|rgb\(|hsl\(", base)  # colours stand in one place
    assert not re.search(r"^[^@:/\n]*\{", tokens, re.MULTILINE)  # and nothing else stands there
