"""Report pages in Chromium: axe finds nothing, nothing is fetched, and no page scrolls sideways."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from chromium import Browser, Page
from test_benchmark_tables import by_hand
from test_report import check, details
from test_results import example

from simulations.experiments import benchmark_page
from simulations.experiments.benchmark_page import page_names, section, write_page, write_pages
from simulations.experiments.benchmark_page import render as render_benchmark
from simulations.experiments.benchmark_schema import read_benchmark
from simulations.outcome.results import Results, write_document
from simulations.privacy.results.kinds import read_result
from simulations.privacy.results.leaving import render
from simulations.reporting.report import Example, Step, write_report

MOST_BYTES = 300_000
RESULTS = Path(__file__).resolve().parents[1] / "results"
WIDTHS = (360, 768, 1280)
PAGES = (
    "run",
    "runs",
    "privacy",
    "attack",
    "curve",
    "methods",
    "several",
    "several-ratings_of_mine",
)
# What a page of several leads to, files beside it: followed, never fetched.
LINKS = {
    "several": {f"several-ratings_of_{whose}.html" for whose in ("mine", "somebody")},
    "several-ratings_of_mine": {"several.html"},
}
# Every benchmark that is kept: the folders of results/ that hold such files alone.
BENCHMARKS = ("seeds", "smollm2", "structures", "tables")
KEPT = sorted(
    path.relative_to(RESULTS).as_posix()
    for name in BENCHMARKS
    for path in (RESULTS / name).glob("*.json")
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Path:
    """Every kind of page, by name."""
    out = tmp_path_factory.mktemp("pages")
    run = out / "of"
    run.mkdir()
    write_document(Results.model_validate(example()), run / "results.json")
    write_document(details(), run / "details.json")
    steps = (Step("population", "stage1", "action", False), Step("user", "stage3", "x" * 90, True))
    shown = Example(prompt="a question " * 20, gold="x" * 90, steps=steps, note="Made up.")
    write_report([run], out / "run.html", examples=[shown])
    write_report([run, repository / "results/demo.json"], out / "runs.html")
    committed = repository / "results/privacy"
    (out / "privacy.html").write_bytes((committed / "report.html").read_bytes())
    for name, result in (("attack", "membership-prototypes"), ("curve", "epsilon-politeness")):
        text = render(*read_result(committed / f"{result}.json"))
        (out / f"{name}.html").write_text(text, encoding="utf-8")
    write_page(by_hand(), out / "methods.html")
    both = [by_hand(task="ratings_of_mine"), by_hand(task="ratings_of_somebody")]
    write_pages(both, out / "several.html")
    return out


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_one_small_file_that_asks_nobody(folder: Path, name: str) -> None:
    text = (folder / f"{name}.html").read_text(encoding="utf-8")
    checker = check(text)
    assert checker.figures or name == "several"
    assert set(checker.outside) == LINKS.get(name, set())
    assert len(checker.ids) == len(set(checker.ids))
    assert not [word for word in ("url(http", "@import", "<script", "<img") if word in text]
    assert "default-src 'none'" in text
    assert len(text.encode()) < MOST_BYTES


@pytest.mark.parametrize("kept", KEPT)
def test_the_page_of_every_kept_benchmark_is_small(kept: str) -> None:
    text = render_benchmark(section(read_benchmark(RESULTS / kept)))
    assert len(text.encode()) < MOST_BYTES


def test_the_page_that_compares_all_real_sets_is_small_and_leads_to_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmark_page, "draw", lambda *_: [])  # drawn above
    found = [read_benchmark(path) for path in sorted((RESULTS / "tables").glob("*.json"))]
    first, *others = write_pages(found, tmp_path / "all sets.html")
    text = first.read_text(encoding="utf-8")
    assert len(text.encode()) < MOST_BYTES
    assert [path.name for path in others] == [f"all sets-{one.task}.html" for one in found]
    links = {unquote(link) for link in re.findall(r'href="([^"#]+)"', text)}
    assert links == {path.name for path in others}
    for path in others:
        assert 'href="all%20sets.html"' in path.read_text(encoding="utf-8")
    twice = write_pages([found[0], found[0]], tmp_path / "twice.html")
    task = found[0].task
    assert [path.name for path in twice[1:]] == [f"twice-1-{task}.html", f"twice-2-{task}.html"]


def test_no_page_of_a_set_takes_the_place_of_another() -> None:
    one = read_benchmark(RESULTS / "tables" / "movie_ratings.json")

    def names(*tasks: str) -> list[str]:
        found = [one.model_copy(update={"task": task}) for task in tasks]
        return page_names(found, Path("x/page.html"))

    assert names("a", "b") == ["page-a.html", "page-b.html"]
    assert len(set(names("a", "a", "a-2", "a-1"))) == 4
    assert len({name.casefold() for name in names("Tag", "tag")}) == 2  # as macOS sees them
    assert names("../../x y") == ["page-.._.._x_y.html"]


def test_a_benchmark_that_compared_nothing_shows_each_figure_once() -> None:
    one = read_benchmark(RESULTS / "structures" / "least_active.json")
    none = one.model_copy(update={"comparisons": [], "lengths": [], "curves": []})
    text = render_benchmark(section(none))
    ids = re.findall(r' id="([^"]+)"', text)
    assert any("cost" in one for one in ids)
    assert len(ids) == len(set(ids))


def opened(browser: Browser, path: Path) -> Page:
    """The page, everything that folds unfolded."""
    page = Page(browser)
    page.go(path.as_uri())
    page.wait("document.readyState === 'complete' && document.querySelector('main')")
    page.run("document.querySelectorAll('details').forEach(d => { d.open = true })")
    return page


def sized(page: Page, width: int) -> None:
    """A window of so many pixels."""
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600}
    page.call("Emulation.setDeviceMetricsOverride", **size)


# Of rows that consist of the same elements, with the same attributes, two stay: axe takes seconds for
# a hundred, and finds in each what it finds in the first.
TWO_OF_A_KIND = """
const seen = {};
for (const row of document.querySelectorAll('tbody tr')) {
  const parts = [row, ...row.querySelectorAll('*')].map(e => e.tagName
    + e.getAttributeNames().map(n => n + (/^(id|href|d|title|aria-label)$/.test(n) ? '' : e.getAttribute(n))));
  const kind = [...new Set(parts)].sort().join();
  seen[kind] = (seen[kind] || 0) + 1;
  if (seen[kind] > 2) row.remove();
}
"""


@pytest.mark.parametrize("name", PAGES)
def test_axe_finds_nothing_in_light_and_dark(
    folder: Path, browser: Browser, axe: str, name: str
) -> None:
    page = opened(browser, folder / f"{name}.html")
    page.run(TWO_OF_A_KIND)
    sized(page, 360)
    page.run(f"{axe}; 0")
    for scheme, rules in (("light", "{}"), ("dark", "{runOnly: ['color-contrast']}")):
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        page.call("Emulation.setEmulatedMedia", features=features)
        found = page.run(
            f"axe.run(document, {rules}).then(r => r.violations.map(v => [v.id, v.nodes[0].html]))"
        )
        assert found == [], scheme
    page.close()


@pytest.mark.parametrize("name", PAGES)
def test_no_page_scrolls_sideways_and_no_table_is_cut_off(
    folder: Path, browser: Browser, name: str
) -> None:
    page = opened(browser, folder / f"{name}.html")
    for width in WIDTHS:
        sized(page, width)
        root = page.run(
            "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"
        )
        assert root[0] <= root[1] <= width, width
        # Whatever is wider than its box can be scrolled to, by keys too.
        cut = page.each(
            "table",
            "e => { const b = e.closest('.scroll'); return !b || b.tabIndex !== 0"
            "|| getComputedStyle(b).overflowX !== 'auto'"
            "|| b.getBoundingClientRect().right > innerWidth; }",
        )
        assert not any(cut)
        outside = page.each(
            "main figure .rows span, .verdict, .hero li, figcaption, .toc a",
            "e => e.getBoundingClientRect().right > innerWidth + 1 && e.innerText",
        )
        assert not any(outside)
    asked = [event["request"]["url"] for event in page.events("Network.requestWillBeSent")]
    assert {urlsplit(url).scheme for url in asked} <= {"file", "data"}
    page.close()


def test_a_long_name_of_a_column_leaves_its_numbers_on_a_phone(
    folder: Path, browser: Browser
) -> None:
    """The first column of numbers ends within the table's box, though its head is a task and a metric."""
    page = opened(browser, folder / "several.html")
    sized(page, 360)
    head, cell, box = (
        page.run(f"document.querySelector('.scroll{inside}').getBoundingClientRect().right")
        for inside in (" thead th:nth-child(2)", " tbody td", "")
    )
    assert "mae_expected" in page.text(".scroll thead th:nth-child(2)")
    assert head == cell < box
    page.close()


@pytest.mark.parametrize("name", ["run", "methods", "several"])
def test_a_phone_shows_the_first_numbers_of_differences_without_a_swipe(
    folder: Path, browser: Browser, name: str
) -> None:
    page = opened(browser, folder / f"{name}.html")
    sized(page, 360)
    cut = page.each(
        ".scroll:is([aria-label*=ifferences], [aria-label*=comparisons], [aria-label^=Means])",
        "e => e.querySelector('tbody td:not(.t)').getBoundingClientRect().right"
        "> e.getBoundingClientRect().right ? e.ariaLabel : ''",
    )
    assert cut
    assert not any(cut)
    page.close()


def test_the_first_screen_holds_the_sentence_and_the_figure(folder: Path, browser: Browser) -> None:
    page = opened(browser, folder / "run.html")
    for width in WIDTHS:
        sized(page, width)
        sentence, figure = (
            page.run(f"document.querySelector('{what}').getBoundingClientRect().bottom")
            for what in (".verdict", ".hero figure")
        )
        assert sentence < figure < 800
    page.close()


def test_the_contents_lead_to_what_is_there(folder: Path, browser: Browser) -> None:
    page = opened(browser, folder / "run.html")
    targets = page.each(".toc a", "e => e.getAttribute('href').slice(1)")
    assert len(targets) == 8
    assert all(page.run(f"!!document.getElementById('{target}')") for target in targets)
    order = page.each("main h2[id]", "e => e.id")
    assert order == targets
    assert order[-1].endswith("settings")
    page.close()
