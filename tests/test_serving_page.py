"""The local page in a real browser: a person's clicks, what it shows and what it never does."""

from __future__ import annotations

import json
from dataclasses import dataclass
from urllib.parse import urlsplit

import pytest
from chromium import Browser, Page, find_chromium
from serving import TOKEN, WEIGHTS, FakeSession, Gate, Running, running

from client.serving.tokens import page_address
from proper_model.errors import DataError

CONNECTED = "document.querySelector('#status')?.textContent.startsWith('Task')"
XSS = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    path = find_chromium()
    if path is None:
        pytest.skip("needs chromium (Debian: apt-get install chromium)")
    browser = Browser(path, tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@dataclass
class Opened:
    """The page on a fresh session and server, opened by the address that `serve` prints."""

    page: Page
    session: FakeSession
    server: Running


@pytest.fixture
def session():
    return FakeSession()


@pytest.fixture
def opened(browser, session):
    """Afterwards: no error on the console, and nothing was asked of anybody else."""
    page = Page(browser)
    with running(session) as server:
        page.go(page_address(server.url, TOKEN))
        page.wait(CONNECTED)
        yield Opened(page, session, server)
        assert page.events("Runtime.exceptionThrown") == []
        assert [e for e in page.events("Log.entryAdded") if e["entry"]["level"] == "error"] == []
        assert page.events("Runtime.consoleAPICalled") == []
        asked = [event["request"] for event in page.events("Network.requestWillBeSent")]
        assert len(asked) >= 8  # page, style, five scripts, status
        ours = {f"127.0.0.1:{server.port}"}
        elsewhere = {urlsplit(r["url"]).netloc for r in asked if not r["url"].startswith("data:")}
        assert elsewhere == ours
        sent = [request for request in asked if TOKEN in json.dumps(request)]
        assert all(TOKEN not in request["url"].partition("#")[0] for request in sent)
        carried = [request for request in sent if request["headers"].get("Authorization")]
        assert {urlsplit(r["url"]).path[:4] for r in carried} in ({"/api"}, {"/api", "/v1/"})
        page.close()


def open_tab(page: Page, name: str) -> None:
    page.click(f"#tab-{name}")
    assert page.each("[role=tabpanel]:not([hidden])", "e => e.id") == [name]


def test_the_token_leaves_the_address_bar(opened) -> None:
    page = opened.page
    assert page.run("location.href") == f"{opened.server.url}/"
    history = page.call("Page.getNavigationHistory")["entries"]
    assert not [entry for entry in history if TOKEN in entry["url"]]
    assert page.run("Object.values(sessionStorage)") == [TOKEN]
    assert page.run("Object.keys(localStorage).length + document.cookie.length") == 0
    assert page.text("#status") == "Task LaMP_2M, adapted to you, release toy-7."
    page.go(f"{opened.server.url}/?again")  # the tab keeps its access
    page.wait(f"location.search && {CONNECTED}")


def test_chat_streams_and_stops(opened) -> None:
    page, session = opened.page, opened.session
    session.gate = gate = Gate()
    assert page.text("#choices") == "This task answers with one of: comedy, drama."
    assert page.run("document.querySelector('#chat-model').value") == "proper"
    page.type("#chat-prompt", "good evening")
    page.press("Enter")
    answer = "document.querySelector('.message.model:last-child .text').textContent"
    for shown in ("3:", "3: good", "3: good evening"):
        gate.release()
        page.wait(f"document.querySelector('.message.model') && {answer} === {json.dumps(shown)}")
    page.wait("document.querySelector('#chat-stop').disabled")
    assert page.run("document.querySelector('#chat-log').getAttribute('aria-live')") == "polite"
    assert page.text(".message.user .text") == "good evening"
    assert session.named("generate") == [("generate", "good evening", "3", None)]

    page.run("document.querySelector('#chat-model').value = 'proper-stage1'")
    page.type("#chat-prompt", "never ends")
    page.click("#chat-form [type=submit]")
    gate.release()
    page.wait(f"{answer} === '1:'")
    page.click("#chat-stop")
    page.wait(f"{answer} === '1: … (stopped)'")
    gate.release()
    page.wait("document.querySelector('#chat-stop').disabled")
    assert page.run("document.querySelector('#problem').hidden")
    gate.release(10)


def test_markup_is_shown_as_text(opened) -> None:
    page, session = opened.page, opened.session
    session.rows[0] = type(session.rows[0])(1, "a", None, XSS)
    page.type("#chat-prompt", XSS)
    page.click("#chat-form [type=submit]")
    page.wait("document.querySelector('#chat-prompt').value === ''")
    assert page.text(".message.user .text") == XSS
    assert page.text(".message.model .text") == f"3: {XSS}"
    open_tab(page, "compare")
    page.type("#compare-prompt", XSS)
    page.click("#compare-form [type=submit]")
    page.wait(f"document.querySelectorAll('.column')[2]?.innerText.includes({json.dumps(XSS)})")
    open_tab(page, "forget")
    page.wait(f"document.querySelector('#forget-list').innerText.includes({json.dumps(XSS)})")
    assert page.run("document.querySelectorAll('img, main script').length") == 0
    assert page.run("document.title") == "PROPER on this device"


def test_the_browser_itself_refuses_markup_made_by_scripts(opened) -> None:
    """The control of the one above: the policy would stop what textContent avoids."""
    message = opened.page.run(
        "(() => { try { document.body.innerHTML = '<b>x</b>'; return 'done'; }"
        " catch (error) { return error.name; } })()"
    )
    assert message == "TypeError"
    opened.page._browser.events.clear()  # the browser tells of the refusal on the console
    opened.page.go(f"{opened.server.url}/?again")
    opened.page.wait(CONNECTED)


def test_compare_shows_three_columns(opened) -> None:
    page = opened.page
    open_tab(page, "compare")
    page.type("#compare-prompt", "a b")
    page.click("#compare-form [type=submit]")
    page.wait("document.querySelectorAll('.column')[2]?.innerText.includes('3: a b')")
    columns = page.each(".column", "c => [...c.children].map(e => e.textContent)")
    assert columns == [[f"Stage {stage}", f"{stage}: a b"] for stage in "123"]
    assert len(set(page.each(".column", "c => c.offsetTop"))) == 1  # side by side


def test_routing_is_a_table_of_the_right_numbers(opened) -> None:
    page = opened.page
    open_tab(page, "routing")
    assert page.each("#routing-stage option", "o => o.value") == ["3", "2"]
    page.type("#routing-prompt", "a b")
    page.click("#routing-form [type=submit]")
    page.wait("document.querySelector('#routing-result table')")
    rows = page.each("#routing-result tr", "r => [...r.cells].map(c => [c.tagName, c.textContent])")
    assert rows[0] == [
        ["TH", t] for t in ("Place in the model", "Expert 1", "Expert 2", "Expert 3")
    ]
    sites = ("layer 0 q_proj", "layer 1 v_proj")
    for row, site, weights in zip(rows[1:], sites, WEIGHTS, strict=True):
        assert row == [["TH", site], *(["TD", f"{weight:.2f}"] for weight in weights)]
    shades = page.each("td", "c => getComputedStyle(c).backgroundColor")
    assert len(set(shades)) == 6  # six weights, six shades
    assert opened.session.named("routing") == [("routing", "a b", "3")]
    assert "How to read it" in page.text("#routing")


def test_forget_asks_first_and_then_does_it(opened) -> None:
    page, session = opened.page, opened.session
    session.forget_gate = gate = Gate()
    open_tab(page, "forget")
    page.wait("document.querySelectorAll('#forget-list input').length === 3")
    assert page.run("document.querySelector('#forget-selected').disabled")
    labels = page.each("#forget-list label", "l => l.textContent")
    assert labels[:2] == ["1. 2024-01-02: first <b>item</b>", "2. second item"]
    page.click("#item-2")
    page.click("#forget-selected")
    page.wait("document.querySelector('#confirm').open")
    told = page.text("#confirm")
    assert "1 of 3 items" in told
    assert "cannot be recalled" in told
    assert page.run("document.activeElement.id") == "confirm-no"
    page.press("Escape")
    page.wait("!document.querySelector('#confirm').open")
    page.click("#forget-selected")
    page.click("#confirm-no")
    page.wait("!document.querySelector('#confirm').open")
    assert session.named("forget") == []

    page.click("#forget-selected")
    page.click("#confirm-yes")
    page.wait(
        "document.querySelector('#forget-progress').textContent.includes('retraining 1 of 4')"
    )
    assert page.run("document.querySelector('#forget-bar').value") == 1
    assert page.run("document.querySelector('#forget-all').disabled")
    gate.release()
    page.wait("document.querySelector('#forget-progress').textContent.startsWith('Done')")
    assert page.text("#forget-progress") == "Done: 1 forgotten, 2 kept. Trained again."
    page.wait("document.querySelectorAll('#forget-list input').length === 2")

    gate.release()
    page.click("#forget-all")
    assert "All 2 items" in page.text("#confirm-what")
    page.click("#confirm-yes")
    page.wait("document.querySelector('#forget-list').textContent === 'There are no items.'")
    assert page.text("#forget-progress") == "Done: 2 forgotten, 0 kept. Trained again."
    assert session.named("forget") == [("forget", ["b"]), ("forget", None)]


def test_forgetting_that_fails_late_shows_what_is_left(opened) -> None:
    page, session = opened.page, opened.session
    session.forget_raises = DataError("x")
    open_tab(page, "forget")
    page.wait("document.querySelectorAll('#forget-list input').length === 3")
    for clicked in ("#item-2", "#forget-selected", "#confirm-yes"):
        page.click(clicked)
    page.wait("document.querySelectorAll('#forget-list input').length === 2")
    assert page.text("#forget-progress") == "Forgetting could not be completed: x"


def test_everything_can_be_forgotten_where_no_item_is(opened) -> None:
    page, session = opened.page, opened.session
    session.rows = []
    open_tab(page, "forget")
    # The list moves the button when it comes.
    page.wait("document.querySelector('#forget-list').innerText.includes('There are no items')")
    page.click("#forget-all")
    page.click("#confirm-yes")
    page.wait("document.querySelector('#forget:has(#forget-bar[hidden]) #forget-all:disabled')")


def test_tabs_follow_the_keyboard(opened) -> None:
    page = opened.page
    page.run("document.querySelector('#tab-chat').focus()")
    for name in ("compare", "routing", "forget", "chat"):
        page.press("ArrowRight")
        assert page.run("document.activeElement.id") == f"tab-{name}"
        selected = page.run("document.querySelector('[role=tab][aria-selected=true]').id")
        assert selected == f"tab-{name}"
    assert all(page.each("input, select, textarea", "e => e.labels.length"))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_small_screen_in_both_schemes(opened, scheme) -> None:
    page = opened.page
    page.call(
        "Emulation.setDeviceMetricsOverride",
        width=360,
        height=640,
        deviceScaleFactor=1,
        mobile=True,
    )
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    page.call("Emulation.setEmulatedMedia", features=features)
    page.type("#chat-prompt", "w" * 400)
    page.click("#chat-form [type=submit]")
    page.wait("document.querySelector('#chat-prompt').value === ''")
    for name in ("compare", "routing", "forget", "chat"):
        open_tab(page, name)
        assert page.run("document.documentElement.scrollWidth") <= 360
    back = page.run("getComputedStyle(document.body).backgroundColor")
    assert back == {"light": "rgb(255, 255, 255)", "dark": "rgb(22, 24, 28)"}[scheme]


def test_without_a_token_the_page_says_what_to_do(browser) -> None:
    page = Page(browser)
    session = FakeSession()
    with running(session) as server:
        page.go(server.url)
        page.wait("document.querySelector('#status')?.textContent === 'Not connected.'")
        assert "Open the address that proper serve printed" in page.text("#problem")
        page.go(page_address(server.url, TOKEN))  # only the fragment differs: no new load
        page.wait(CONNECTED)
        assert page.run("location.href") == f"{server.url}/"
        assert page.run("document.querySelector('#problem').hidden")
    page.close()
