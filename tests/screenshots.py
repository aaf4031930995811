"""Pictures of every view of the local page and of reports, to be looked at: three widths, light and dark.

    .venv/bin/python -m tests.screenshots OUT [REPORT.html ...]

Nothing is compared: what is wrong with a view in words, tests/test_serving_page_views.py and
tests/test_report_pages.py find; whether it looks right, a person does.
"""

from __future__ import annotations

import base64
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # as pytest has it

from chromium import Browser, Page, find_chromium
from local_page import CONNECTED, ask, open_tab
from serving import TOKEN, FakeSession, Gate, running
from test_serving_page_views import emulate

from client.serving.session import Ending, ItemRow, Routing
from client.serving.tokens import page_address
from proper_model.errors import DataError

WIDTHS, SCHEMES = (360, 768, 1280), ("light", "dark")
TALLEST = 4000  # pixels of a picture
QUESTION = "Which word describes a film about a clever prisoner who digs a tunnel for twenty years?"
ANSWERS = {
    "1": "A drama: it tells the story of a prisoner who escapes.",
    "2": "A quiet drama: it tells the story of a man who never gives up.",
    "3": "A slow, quiet drama about patience: a man who never gives up, and a wall that does.",
}
LAYERS = 30


@dataclass
class Shown(FakeSession):
    """Answers a person's sentences; `groups` experts in many layers."""

    groups: int = 3
    rows: list[ItemRow] = field(
        default_factory=lambda: [
            ItemRow(n, f"i{n}", f"2024-{1 + n % 12:02}-{1 + n:02}", f"{words}, number {n}")
            for n, words in enumerate(
                ["a shy poet in a storm", "two brothers, one boat and a very long summer"] * 6, 1
            )
        ]
    )

    def generate(self, messages, *, stage, manner):
        yield from self._words(ANSWERS[stage])
        return Ending("stop", len(ANSWERS[stage].split(" ")), 24)

    def _words(self, text: str) -> Iterator[str]:
        if self.raises is not None:
            raise self.raises
        for place, word in enumerate(text.split(" ")):
            yield f" {word}" if place else word

    def routing(self, prompt, *, stage):
        parts = [[1 + (layer * (g + 2)) % 7 for g in range(self.groups)] for layer in range(LAYERS)]
        weights = tuple(tuple(one / sum(row) for one in row) for row in parts)
        return Routing(tuple(f"layer {n} down_proj" for n in range(LAYERS)), weights)


def _asked(page: Page, view: str, done: str) -> None:
    open_tab(page, view)
    page.type(f"#{view}-prompt", QUESTION)
    page.click(f"#{view}-form [type=submit]")
    page.wait(done)


def _chat(page: Page) -> None:
    open_tab(page, "chat")
    for text in (QUESTION, "And in three words?"):
        ask(page, text)


def _options(page: Page) -> None:
    page.run("document.querySelector('#chat-more').open = true")


def _compare(page: Page) -> None:
    _asked(page, "compare", "document.querySelector('[data-stage=\"3\"] .change').textContent")
    page.run("document.querySelector('#compare-gone').checked = true")


def _routing(page: Page) -> None:
    _asked(page, "routing", "document.querySelector('#routing-result table')")


def _forget(page: Page) -> None:
    open_tab(page, "forget")
    page.wait("document.querySelectorAll('#forget-list input').length === 12")
    page.click("#item-2")


def _asking(page: Page) -> None:
    page.click("#forget-selected")
    page.wait("document.querySelector('#confirm').open")


def _forgetting(page: Page) -> None:
    page.click("#confirm-yes")
    page.wait("document.querySelector('#forget-numbers').textContent.startsWith('Step 1 of 4')")


def views(session: Shown, gate: Gate) -> list[tuple[str, Callable[[Page], None]]]:
    """Name and what brings a connected page there, one after the other."""

    def many(page: Page) -> None:
        session.groups = 8
        _routing(page)

    def problem(page: Page) -> None:
        gate.release(10)
        page.wait("!document.querySelector('#forget-numbers').textContent.startsWith('Step')")
        session.raises = DataError(
            "the conversation leaves no room for an answer", hint="begin anew"
        )
        open_tab(page, "chat")
        page.type("#chat-prompt", QUESTION)
        page.press("Enter")
        page.wait("!document.querySelector('#problem').hidden")

    return [
        ("chat-empty", lambda page: None),
        ("compare-empty", lambda page: open_tab(page, "compare")),
        ("routing-empty", lambda page: open_tab(page, "routing")),
        ("chat", _chat),
        ("chat-options", _options),
        ("compare", _compare),
        ("routing-few", _routing),
        ("routing-many", many),
        ("forget", _forget),
        ("forget-asking", _asking),
        ("forget-progress", _forgetting),
        ("problem", problem),
    ]


def shoot(page: Page, out: Path, name: str) -> None:
    """The whole page at every width, light and dark."""
    for width in WIDTHS:
        for scheme in SCHEMES:
            emulate(page, width, scheme)
            height = min(TALLEST, int(page.run("document.documentElement.scrollHeight")))
            clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
            made = page.call("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)
            (out / f"{name}-{width}-{scheme}.png").write_bytes(base64.b64decode(made["data"]))


def main(out: Path, reports: list[Path]) -> None:
    """Write the pictures into `out`."""
    out.mkdir(parents=True, exist_ok=True)
    path = find_chromium()
    if path is None:
        sys.exit("needs chromium")
    with tempfile.TemporaryDirectory() as profile:
        browser = Browser(path, Path(profile))
        session, gate = Shown(), Gate()
        session.forget_gate = gate
        try:
            with running(session) as server:
                page = Page(browser)
                page.go(server.url)
                page.wait("document.querySelector('#away')?.checkVisibility()")
                shoot(page, out, "away")
                page.go(page_address(server.url, TOKEN))
                page.wait(CONNECTED)
                for name, bring in views(session, gate):
                    bring(page)
                    shoot(page, out, name)
            for report in reports:
                page.go(report.resolve().as_uri())
                page.wait("document.readyState === 'complete' && document.querySelector('main')")
                shoot(page, out, f"report-{report.stem}")
        finally:
            gate.release(10)
            browser.close()


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), [Path(name) for name in sys.argv[2:]])
