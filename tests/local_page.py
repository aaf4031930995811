"""What tests of the local page in a browser have in common."""

from __future__ import annotations

from chromium import Page

CONNECTED = "document.querySelector('#status')?.textContent.startsWith('Task')"


def open_tab(page: Page, name: str) -> None:
    page.click(f"#tab-{name}")
    assert page.each("[role=tabpanel]:not([hidden])", "e => e.id") == [name]
