"""What tests of the local page in a browser have in common."""

from __future__ import annotations

from chromium import Page

CONNECTED = "document.querySelector('#status')?.textContent.startsWith('Task')"

ANSWERED = "document.querySelector('#chat-stop').disabled && document.querySelector('.message')"


def ask(page: Page, text: str, timeout_s: float = 10.0) -> None:
    """Send a message in the tab Chat and wait until its answer ended."""
    page.type("#chat-prompt", text)
    page.press("Enter")
    page.wait(f"{ANSWERED} && document.querySelector('.message:last-child.model')", timeout_s)


def open_tab(page: Page, name: str) -> None:
    page.click(f"#tab-{name}")
    assert page.each("[role=tabpanel]:not([hidden])", "e => e.id") == [name]
