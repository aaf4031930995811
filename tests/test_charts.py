"""Where charts put a person's bar, by hand, and that pictures of their own are whole."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

from simulations.reporting.charts import Bars, Chart, Heat, Mark, People, Row, intervals, standalone

# From -1 to 3 with 4% of 4 on both sides, an axis of 4.32: 0 at 3.16 / 4.32 = 73.1% from the top, 3 at
# .16 / 4.32 = 3.7%, -1 at 4.16 / 4.32 = 96.3%.
THREE = People((3.0, 0.0, -1.0), "gain in accuracy")


def test_the_bars_of_a_tone_are_one_path() -> None:
    assert THREE.size == (30, 1000)
    assert THREE.paths == [("gain", "M1 37h8v694h-8z"), ("loss", "M21 731h8v232h-8z")]
    assert People((0.0, 0.0), "gain").paths == []
    many = People((0.5,) * 400, "gain")
    assert [tone for tone, _ in many.paths] == ["gain"]
    assert many.paths[0][1].count("z") == 400


@pytest.mark.parametrize(
    ("chart", "words"),
    [
        (THREE, ["0", "2", "gain in accuracy; 3 people, above 0 is better"]),
        (intervals([Row("a < b", (Mark(1.0, 0.5, 1.5, "1"),))], "nll", zero=0.0), ["a < b", "1"]),
        (Bars((("upload", 2.0, "2.00"),), "seconds"), ["upload", "2.00", "seconds"]),
    ],
)
def test_a_picture_of_its_own_is_well_formed_and_has_its_words(
    chart: Chart, words: list[str]
) -> None:
    root = ET.fromstring(standalone(chart))
    said = [text.text for text in root.iter("{http://www.w3.org/2000/svg}text")]
    assert set(words) <= set(said)


def test_routing_is_drawn_by_its_page_alone() -> None:
    assert standalone(Heat(((0.5, 0.5),), 2)) == ""
