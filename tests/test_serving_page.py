"""The local page in a real browser: a person's clicks, what it shows and what it never does."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from itertools import combinations
from urllib.parse import urlsplit

import pytest
from chromium import Page
from local_page import ANSWERED, CONNECTED, ask, open_tab
from serving import TOKEN, WEIGHTS, FakeSession, Gate, Running, running

from client.serving.app import PAGE_FILES
from client.serving.page_api import PageApi
from client.serving.session import ItemRow
from client.serving.tokens import page_address
from proper_model.errors import DataError

PER_LAYER = ((1, 75, 10), (2, 25, 20), (3, 0, 70))  # WEIGHTS as per cents: group, layer 0, layer 1
# The server's side of a conversation, within the page: what is asked, and answers with a wording.
FAKE_STREAM = """
window.asked = [];
window.fetch = async (path, { body }) => {
  asked.push(JSON.parse(body));
  const wording = asked.at(-1).messages.length === 1 ? "task" : asked.length === 2 ? "chat" : undefined;
  const event = { wording, choices: [{ delta: { content: "well" }, finish_reason: "stop" }] };
  return new Response(`data: ${JSON.stringify(event)}\\n\\ndata: [DONE]\\n\\n`);
};
0
"""
XSS = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"


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
        assert len(asked) >= 10  # page, style, seven scripts, status
        ours = {f"127.0.0.1:{server.port}"}
        elsewhere = {urlsplit(r["url"]).netloc for r in asked if not r["url"].startswith("data:")}
        assert elsewhere == ours
        sent = [request for request in asked if TOKEN in json.dumps(request)]
        assert all(TOKEN not in request["url"].partition("#")[0] for request in sent)
        carried = [request for request in sent if request["headers"].get("Authorization")]
        assert {urlsplit(r["url"]).path[:4] for r in carried} in ({"/api"}, {"/api", "/v1/"})
        page.close()


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


def sent_bodies(page: Page, path: str) -> list[dict]:
    asked = [event["request"] for event in page.events("Network.requestWillBeSent")]
    posted = [r for r in asked if r["method"] == "POST" and urlsplit(r["url"]).path == path]
    return [json.loads(request["postData"]) for request in posted]


def test_chat_streams_and_stops(opened) -> None:
    page, session = opened.page, opened.session
    session.gate = gate = Gate()
    assert page.text("#choices") == "This task answers with one of: comedy, drama."
    assert page.run("document.querySelector('#chat-model').value") == "proper"
    assert "Nothing asked yet" in page.text("#chat-empty")
    page.type("#chat-prompt", "good evening")
    page.press("Enter")
    answer = "document.querySelector('.message.model:last-child .text').textContent"
    for shown in ("3:", "3: good", "3: good evening"):
        gate.release()
        page.wait(f"document.querySelector('.message.model') && {answer} === {json.dumps(shown)}")
    page.wait(ANSWERED)
    assert page.run("document.querySelector('#chat-log').getAttribute('aria-live')") == "polite"
    assert page.text(".message.user .text") == "good evening"
    assert session.named("generate") == [("generate", "good evening", "3", None)]

    page.click("#chat-new")
    assert page.run("document.querySelectorAll('.message').length") == 0
    page.run("document.querySelector('#chat-model').value = 'proper-stage1'")
    page.type("#chat-prompt", "never ends")
    page.run("document.querySelector('#chat-form [type=submit]').focus()")
    page.press(" ")
    gate.release()
    page.wait(f"document.querySelector('.message.model') && {answer} === '1:'")
    assert (
        page.run("document.activeElement.id") == "chat-stop"
    )  # the button that had it is disabled
    page.press(" ")
    gate.release()
    page.wait(ANSWERED)
    assert page.text(".message.model:last-child .after") == "Stopped."
    assert page.text(".message.model:last-child .text") == "1:"
    assert page.run("document.querySelector('#problem').hidden")
    assert page.run("document.activeElement.id") == "chat-prompt"
    gate.release(10)


def test_a_request_carries_the_whole_conversation_and_only_what_was_set(opened) -> None:
    page = opened.page
    assert not page.run("document.querySelector('#chat-together').checked")  # answers are labels
    opened.session.label_choices = ()
    page.go(f"{opened.server.url}/?again")
    page.wait(f"location.search && {CONNECTED}")
    assert page.run("document.querySelector('#chat-together').checked")
    page.run(FAKE_STREAM)
    ask(page, "one")
    ask(page, "two")
    assert page.each(".message .after", "e => e.textContent") == [
        "Asked in the wording of its training.",
        "Asked as a conversation, which is not the wording of its training.",
    ]
    page.run("document.querySelector('#chat-more').open = true")
    page.type("#chat-system", "Be kind.")
    page.type("#chat-temperature", "0.5")
    page.click("#chat-together")
    ask(page, "three")
    user = [{"role": "user", "content": text} for text in ("one", "two", "three")]
    reply = {"role": "assistant", "content": "well"}
    common = {"model": "proper", "stream": True}
    system = {"role": "system", "content": "Be kind."}
    assert page.run("asked") == [
        {**common, "messages": user[:1]},
        {**common, "messages": [user[0], reply, user[1]]},
        {**common, "messages": [system, user[2]], "temperature": 0.5},
    ]
    page.run("document.querySelector('#chat-more').open = false")
    page.run("document.querySelector('#chat-temperature').value = '9'")
    page.type("#chat-prompt", "four")
    page.press("Enter")
    page.wait("document.querySelector('#chat-more').open")  # where the field is that is wrong
    assert page.run("asked.length") == 3


def test_a_new_chat_amid_an_answer_begins_with_nothing(opened) -> None:
    page, session = opened.page, opened.session
    session.gate = gate = Gate()
    page.click("#chat-more summary")
    page.click("#chat-together")
    for told in ("secret question", "other secret"):  # stopped after a word, and before any
        page.type("#chat-prompt", told)
        page.press("Enter")
        page.wait("!document.querySelector('#chat-stop').disabled")
        if told.startswith("secret"):
            gate.release()
            page.wait("document.querySelector('.message.model .text').textContent === '3:'")
        page.click("#chat-new")
        page.wait("document.querySelector('#chat-stop').disabled")
        assert page.run("document.querySelector('#chat-prompt').value") == ""
        assert page.run("document.querySelectorAll('.message').length") == 0
    gate.release(20)
    ask(page, "anew")
    page.wait("document.querySelector('.message.model .text').textContent === '3: anew'")
    assert sent_bodies(page, "/v1/chat/completions")[-1]["messages"] == [
        {"role": "user", "content": "anew"}
    ]


def test_a_browser_keeps_nothing_that_was_typed(opened) -> None:
    """Not even to fill the fields again after the page was loaded anew, for which browsers use the disk."""
    page = opened.page
    assert page.each(
        "textarea, input:not([type=checkbox])", "e => e.autocomplete || e.form.autocomplete"
    ) == ["off"] * len(page.each("textarea, input:not([type=checkbox])", "e => 1"))
    page.type("#chat-prompt", "my secret")
    page.run("document.querySelector('#chat-system').value = 'my secret'")
    page.call("Page.reload")
    page.wait(f"document.querySelector('#chat-prompt')?.value === '' && {CONNECTED}")
    stored = "JSON.stringify([{...localStorage}, Object.keys(sessionStorage), document.cookie, history.state])"
    assert page.run(stored) == '[{},["proper-token"],"",null]'
    assert page.run("document.querySelector('#chat-system').value") == ""


def test_what_failed_is_told_and_can_be_sent_again(opened) -> None:
    page, session = opened.page, opened.session
    session.raises = DataError("this prompt cannot be taken")
    ask(page, "again?")
    assert page.text("#problem") == "this prompt cannot be taken"
    assert page.text(".message.model .after") == "Not completed."
    assert page.run("document.querySelector('#chat-prompt').value") == "again?"
    session.raises = None
    page.press("Enter")
    page.wait(f"{ANSWERED} && document.querySelector('.message:last-child .text').textContent")
    assert page.text(".message:last-child .text") == "3: again?"
    assert page.run("document.querySelector('#problem').hidden")
    expected = [{"role": "user", "content": "again?"}]
    bodies = sent_bodies(page, "/v1/chat/completions")
    assert [body["messages"] for body in bodies] == [expected, expected]
    page._browser.events.clear()  # the browser tells of the refusal on the console
    page.go(f"{opened.server.url}/?again")
    page.wait(f"location.search && {CONNECTED}")


def test_markup_is_shown_as_text(opened) -> None:
    page, session = opened.page, opened.session
    session.rows[0] = type(session.rows[0])(1, "a", None, XSS)
    ask(page, XSS)
    assert page.text(".message.user .text") == XSS
    assert page.text(".message.model .text") == f"3: {XSS}"
    open_tab(page, "compare")
    page.type("#compare-prompt", XSS)
    page.click("#compare-form [type=submit]")
    page.wait("document.querySelector('[data-stage=\"3\"] .change').textContent")
    assert all(XSS in text for text in page.each(".column .text", "e => e.textContent"))
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


def test_compare_marks_what_each_stage_changes(opened) -> None:
    page = opened.page
    open_tab(page, "compare")
    assert page.each(".column h3", "e => e.textContent") == [
        "Everybody",
        "People like you",
        "Yours",
    ]
    page.type("#compare-prompt", "a b")
    page.click("#compare-form [type=submit]")
    page.wait("document.querySelector('[data-stage=\"3\"] .change').textContent")
    assert len(set(page.each(".column", "c => c.offsetTop"))) == 1  # side by side
    # What the eye sees, and what a screen reader is given.
    assert page.each(".column .text", r"e => e.innerText.replace(/new:\s*/, '')") == [
        f"{stage}: a b" for stage in "123"
    ]
    assert page.each(".column ins", "e => e.textContent") == ["new: 2", "new: 3"]
    assert page.each(".column del", "e => [e.textContent, e.checkVisibility()]") == [
        ["went away: 1 ", False],
        ["went away: 2 ", False],
    ]
    lines = page.each(".column ins", "e => getComputedStyle(e).textDecorationLine")
    assert lines == ["underline"] * 2
    assert page.each(".column .change", "e => e.textContent") == [
        "",
        "Against stage 1: 1 new word, 1 gone.",
        "Against stage 2: 1 new word, 1 gone.",
    ]
    assert "was not in the answer of the stage before" in page.text("#compare-key")
    page.click("#compare-gone")
    assert page.each(".column del", "e => e.checkVisibility()") == [True, True]


def common_length(a: list[str], b: list[str]) -> int:
    """Of the longest common subsequence, by trying all subsequences of `a`, the longest first."""
    for length in range(len(a), 0, -1):
        for chosen in combinations(a, length):
            rest = iter(b)
            if all(word in rest for word in chosen):
                return length
    return 0


def test_a_diff_joins_to_both_texts_and_keeps_all_it_can(opened) -> None:
    draw = random.Random(5)
    pairs = [
        [" ".join(draw.choices("abcd", k=draw.randrange(8))) for _ in range(2)] for _ in range(60)
    ]
    script = f"""import("/diff.js").then(({{ changes }}) => {json.dumps(pairs)}.map((p) => changes(...p)))"""
    for (before, after), found in zip(pairs, opened.page.run(script), strict=True):
        for text, kinds in ((before, ("same", "gone")), (after, ("same", "new"))):
            joined = "".join(part["text"] for part in found if part["kind"] in kinds)
            assert joined.split() == text.split()
            assert joined == text or "gone" in kinds
        kept = sum(part["count"] for part in found if part["kind"] == "same")
        assert kept == common_length(before.split(), after.split())
    script = """import("/diff.js").then(({ changes }) => changes("night train and", "night train; and"))"""
    kinds = [(part["kind"], part["text"], part["count"]) for part in opened.page.run(script)]
    assert kinds == [("same", "night train", 2), ("new", ";", 0), ("same", " and", 1)]
    script = (
        """import("/diff.js").then(({ changes }) => changes("dystopia", "thought-provoking"))"""
    )
    assert [part["count"] for part in opened.page.run(script)] == [1, 1]  # a compound is one word


def test_without_an_adaptation_the_third_stage_says_how_to_get_it(opened) -> None:
    page, session = opened.page, opened.session
    session.stages, session.model_names = ("1", "2"), {"proper": "2", "proper-stage1": "1"}
    page.go(f"{opened.server.url}/?again")
    page.wait(f"location.search && {CONNECTED}")
    open_tab(page, "compare")
    assert "proper adapt" in page.text("[data-stage='3'] .state")
    page.type("#compare-prompt", "a")
    page.click("#compare-form [type=submit]")
    page.wait("document.querySelector('[data-stage=\"2\"] .change').textContent")
    assert page.text("[data-stage='3'] .text") == ""


def test_routing_shows_shares_layers_and_all_numbers(opened) -> None:
    page = opened.page
    open_tab(page, "routing")
    assert page.each("#routing-stage option", "o => o.value") == ["3", "2"]
    assert "Ask something" in page.text("#routing-empty")
    page.type("#routing-prompt", "a b")
    page.click("#routing-form [type=submit]")
    page.wait("document.querySelector('#routing-result table')")
    # Means over both places: 0.425, 0.225, 0.35; the half per cent goes to the first.
    shares = page.each(".groups li", "e => [e.children[0].textContent, e.children[2].textContent]")
    assert shares == [["Group 1", "43%"], ["Group 3", "35%"], ["Group 2", "22%"]]
    assert "group 1 (43%), then of group 3 (35%)" in page.text(".lead-answer")
    widths = page.each(".track", "e => e.firstChild.offsetWidth / e.offsetWidth")
    assert widths == pytest.approx([0.425, 0.35, 0.225], abs=0.02)
    told = page.each(".strip", "e => e.getAttribute('aria-label')")
    assert told == [f"Group {n}: layer 0 {a}%, layer 1 {b}%" for n, a, b in PER_LAYER]
    heights = page.each(".strip", "e => [...e.children].map(c => c.offsetHeight / e.clientHeight)")
    for drawn, (_, *percent) in zip(heights, PER_LAYER, strict=True):
        assert drawn == pytest.approx([p / 75 for p in percent], abs=0.05)

    page.click("#routing-result summary")
    rows = page.each("#routing-result tr", "r => [...r.cells].map(c => [c.tagName, c.textContent])")
    assert rows[0] == [["TH", t] for t in ("Place in the model", "Group 1", "Group 2", "Group 3")]
    sites = ("layer 0 q_proj", "layer 1 v_proj")
    for row, site, weights in zip(rows[1:], sites, WEIGHTS, strict=True):
        assert row == [["TH", site], *(["TD", f"{weight:.2f}"] for weight in weights)]
    # A fifth of the way each: 0.75 is in the fourth, 0.25 in the second ...
    steps = page.each("td", "c => c.className")
    assert steps == [f"weight heat-{step}" for step in (4, 2, 1, 1, 1, 4)]
    assert opened.session.named("routing") == [("routing", "a b", "3")]


def test_percents_add_up(opened) -> None:
    sets = [[1 / 3] * 3, [0.995, 0.003, 0.002], [0.5, 0.5], [1.0], [0.29, 0.71]]
    script = f"""import("/routing.js").then(({{ percents }}) => {json.dumps(sets)}.map(percents))"""
    assert opened.page.run(script) == [[34, 33, 33], [100, 0, 0], [50, 50], [100], [29, 71]]


def test_forget_asks_first_and_then_does_it(opened) -> None:
    page, session = opened.page, opened.session
    session.forget_gate = gate = Gate()
    open_tab(page, "forget")
    page.wait("document.querySelectorAll('#forget-list input').length === 3")
    assert page.run("document.querySelector('#forget-selected').disabled")
    labels = page.each("#forget-list label", "l => l.textContent")
    assert labels[:2] == ["1. 2024-01-02 first <b>item</b>", "2. second item"]
    page.click("#item-2")
    page.click("#forget-selected")
    page.wait("document.querySelector('#confirm').open")
    told = page.text("#confirm")
    assert page.text("#forget-count") == "1 of 3 selected"
    assert "1 of 3 items" in told
    assert "cannot be recalled" in told
    assert page.run("document.activeElement.id") == "confirm-no"
    page.press("Escape")
    page.wait("!document.querySelector('#confirm').open")
    assert page.run("document.activeElement.id") == "forget-selected"
    page.click("#forget-selected")
    page.click("#confirm-no")
    page.wait("!document.querySelector('#confirm').open")
    assert session.named("forget") == []

    page.click("#forget-selected")
    page.click("#confirm-yes")
    page.wait("document.querySelector('#forget-numbers').textContent.startsWith('Step 1 of 4')")
    assert page.text("#forget-progress") == "Forgetting: retraining…"
    assert page.run("document.activeElement.id") == "forget-job"
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


def test_time_left_is_at_the_pace_of_the_phase() -> None:
    now = [0.0]
    with running(FakeSession()) as server:
        api = PageApi(server.turns, lambda: now[0])
        told = []
        for seconds, *step in (
            (0, "embedding", 0, 0),
            (5, "embedding", 1, 4),
            (10, "adapter", 0, 0),
            (40, "adapter", 0, 100),
            (60, "adapter", 25, 100),  # 50 s for 25: as much again for each of the other three
            (64, "adapter", 99, 0),
            (70, "adapter", 3, 10),  # counted anew
            (74, "adapter", 5, 10),
        ):
            now[0] = seconds
            api._on_progress(*step)
            told.append(api._job.left_s)
        assert told == [None, 15, None, None, 150, None, None, 10]


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


def test_without_a_token_the_page_says_what_to_do(browser) -> None:
    page = Page(browser)
    session = FakeSession()
    with running(session) as server:
        page.go(server.url)
        page.wait("document.querySelector('#status')?.textContent === 'Not connected.'")
        assert "Open the address that proper serve printed" in page.text("#problem")
        assert (
            page.each("[role=tabpanel]:not([hidden]), [role=tablist]:not([hidden])", "e => 1") == []
        )
        assert "start proper serve" in page.text("#away")
        page.go(page_address(server.url, TOKEN))  # only the fragment differs: no new load
        page.wait(CONNECTED)
        assert page.run("location.href") == f"{server.url}/"
        assert page.run("document.querySelector('#problem').hidden")
        assert page.run("document.querySelector('#away').hidden")
    page.close()


def test_the_whole_page_is_small_and_comes_from_here(opened) -> None:
    page = opened.page
    page.run("document.title")
    loaded = page.run(
        "performance.getEntriesByType('resource').concat(performance.getEntriesByType('navigation'))"
        ".map(e => [new URL(e.name).host, e.decodedBodySize])"
    )
    assert {host for host, _ in loaded} == {f"127.0.0.1:{opened.server.port}"}
    assert sum(size for _, size in loaded) < 300_000
    served = [opened.server.client.get(path).content for path in PAGE_FILES]
    assert sum(map(len, served)) < 300_000


def walk(page: Page, steps: int) -> list[str]:
    """Ids of what has the focus after each press of Tab."""
    ids = []
    for _ in range(steps):
        page.press("Tab")
        ids.append(page.run("document.activeElement.id || document.activeElement.className"))
    return ids


def test_everything_can_be_reached_and_done_by_keyboard(opened) -> None:
    page = opened.page
    page.run("document.activeElement.blur()")
    reached = walk(page, 5)
    assert reached == ["skip", "tab-chat", "chat-prompt", "chat-model", "chat-new"]
    outline = "getComputedStyle(document.activeElement).outlineStyle"
    assert page.run(outline) == "solid"
    page.run("document.querySelector('.skip').focus()")
    assert page.run("document.querySelector('.skip').getBoundingClientRect().top") >= 0
    page.press("Enter")
    page.wait("document.activeElement.id === 'main'")  # and the connection is as it was
    assert walk(page, 1) == ["chat-prompt"]
    page.run("document.querySelector('#tab-chat').focus()")
    for _ in range(3):
        page.press("ArrowRight")
    page.wait("document.querySelectorAll('#forget-list input').length === 3")
    assert walk(page, 2) == ["forget-list", "item-1"]
    page.press(" ")
    assert walk(page, 3) == ["item-2", "item-3", "forget-selected"]
    page.press("Enter")
    page.wait("document.querySelector('#confirm').open")
    assert page.run("document.activeElement.id") == "confirm-no"
    assert walk(page, 1) == ["confirm-yes"]
    page.press("Enter")
    page.wait("document.querySelector('#forget-progress').textContent.startsWith('Done')")
    assert page.run("document.activeElement.id") == "forget-job"
    assert opened.session.named("forget") == [("forget", ["a"])]


def test_a_long_list_can_be_searched(opened) -> None:
    page, session = opened.page, opened.session
    session.rows = [ItemRow(n, str(n), None, f"item {chr(64 + n)}x") for n in range(1, 10)]
    open_tab(page, "forget")
    page.wait("document.querySelectorAll('#forget-list input').length === 9")
    page.click("#item-1")
    page.type("#forget-find", "bX")
    seen = page.each(".item", "e => e.checkVisibility() ? e.innerText : ''")
    assert [text for text in seen if text] == ["1. item Ax", "2. item Bx"]  # the chosen one stays
