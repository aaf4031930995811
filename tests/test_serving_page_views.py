"""Every view of the local page, narrow and wide, light and dark: nothing scrolls sideways, axe-core finds nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from chromium import Browser, Page
from local_page import CONNECTED, open_tab
from serving import TOKEN, FakeSession, Gate, running

from client.serving.session import ItemRow
from client.serving.tokens import page_address

AXE = """axe.run(document, { resultTypes: ["violations"] }).then((found) => ({
  passes: found.passes.length,
  violations: found.violations.map((v) => [v.id, v.nodes.map((n) => [n.html, n.failureSummary])]),
}))"""
# What makes every view show what it can, one after the other; each leaves the page as it is then.
VIEWS = ("away", "chat", "compare", "routing", "forget", "asking", "forgetting")
LONG = "w" * 300


def show(page: Page, view: str) -> None:
    """Bring a view of an opened page to where it shows most."""
    if view in ("chat", "compare", "routing"):
        open_tab(page, view)
        page.type(f"#{view}-prompt", f"a b {LONG}")
        page.click(f"#{view}-form [type=submit]")
        page.wait(
            {
                "chat": "document.querySelector('.message.model .text')?.textContent.endsWith('w')",
                "compare": "document.querySelector('[data-stage=\"3\"] .change').textContent",
                "routing": "document.querySelector('#routing-result table')",
            }[view]
        )
        page.run(f"document.querySelectorAll('#{view} details').forEach((d) => (d.open = true))")
        page.run("document.querySelector('#compare-gone').checked = true")
    elif view == "forget":
        open_tab(page, view)
        page.wait("document.querySelectorAll('#forget-list input').length === 12")
        page.click("#item-2")
    elif view == "asking":
        page.click("#forget-selected")
        page.wait("document.querySelector('#confirm').open")
    elif view == "forgetting":
        page.click("#confirm-yes")
        page.wait("document.querySelector('#forget-numbers').textContent.startsWith('Step 1 of 4')")


def emulate(page: Page, width: int, scheme: str) -> None:
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
    page.call("Emulation.setDeviceMetricsOverride", **size)
    features = [
        {"name": "prefers-color-scheme", "value": scheme},
        {"name": "prefers-reduced-motion", "value": "reduce"},
    ]
    page.call("Emulation.setEmulatedMedia", features=features)


@contextmanager
def shown(browser: Browser, *, axe: str = "") -> Iterator[tuple[Page, Callable[[str], None]]]:
    """A page that is not connected yet, and a function that brings it to one view after another."""
    rows = [ItemRow(n, f"i{n}", "2024-01-02", f"item {LONG}") for n in range(1, 13)]
    session, gate = FakeSession(rows=rows), Gate()
    session.forget_gate = gate
    page = Page(browser)
    with running(session) as server:
        if axe:
            page.call("Page.addScriptToEvaluateOnNewDocument", source=axe)
        page.go(server.url)
        page.wait("document.querySelector('#away')?.checkVisibility()")

        def bring(view: str) -> None:
            if view == "chat":
                page.go(page_address(server.url, TOKEN))
                page.wait(CONNECTED)
            show(page, view)

        try:
            yield page, bring
        finally:
            gate.release(10)
            page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_view_scrolls_sideways_at_any_width(browser, scheme) -> None:
    with shown(browser) as (page, bring):
        for view in VIEWS:
            bring(view)
            for width in (360, 768, 1280):
                emulate(page, width, scheme)
                wide = page.run("document.documentElement.scrollWidth")
                assert wide <= width, (view, width)
                over = page.each(
                    "main *, dialog[open] *",
                    "e => e.checkVisibility() && !e.closest('.scroll, .visually-hidden')"
                    f" && e.getBoundingClientRect().right > {width + 1} ? e.outerHTML : ''",
                )
                assert not any(over), (view, width, [o for o in over if o])
        back = page.run("getComputedStyle(document.body).backgroundColor")
        assert back == {"light": "rgb(246, 246, 243)", "dark": "rgb(19, 20, 25)"}[scheme]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_in_any_view(browser, axe: str, scheme) -> None:
    with shown(browser, axe=axe) as (page, bring):
        for view in VIEWS:
            bring(view)
            for width in (360, 1280):
                emulate(page, width, scheme)
                found = page.run(AXE)
                assert found["passes"] > 10, (view, width)  # it looked
                assert found["violations"] == [], (view, width)
        # The control: it finds what is planted.
        page.run("document.querySelector('#chat-prompt').labels[0].remove()")
        page.run("document.querySelector('#confirm').close()")
        page.click("#tab-chat")
        assert "label" in [id for id, _ in page.run(AXE)["violations"]]
