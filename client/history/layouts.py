"""The exports of sites and programs that are known by their layout; docs/histories.md shows them.

A layout is data: how a file is recognized, where the text, the rating and the date of an item stand,
and which records are none of the person's own items. Columns of a table are named as they are,
values inside JSON by a path such as `tweet.full_text`. Of several places the first that holds
something counts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from client.history.plain_text import from_entities, from_html, from_parts

FROM = "_sender"  # the field of chats that says whose message it is

Places = tuple[str, ...]


@dataclass(frozen=True)
class Rule:
    """Records that are left out for `reason`: those whose value at `place` passes `test`.

    A rule with `needs` counts only for tasks with that field.
    """

    reason: str
    place: str
    test: Callable[[Any], bool]
    needs: str | None = None


@dataclass(frozen=True)
class Layout:
    """One export.

    Attributes:
        files: the names that it usually has, for people and for what is found in an archive.
        header: columns by which a table is known.
        head: a pattern that the beginning of a JSON or text file matches.
        records: path of the array of records inside JSON; `` is the array at the top.
        also: other places of records, in other files of the same program.
        fields: where the fields that tasks have stand.
        date: where the date stands.
        rules: which records are left out, and why.
        clean: makes text of what stands there.
        sure: the fields are what they say; otherwise a person is asked, with `note`.
        scale: of its ratings where it is another one than one to five stars.
        owner: path of the person's own identity in the file, where others' messages stand too.
        sender: whose a record is, in a chat.
    """

    name: str
    form: Literal["table", "json", "whatsapp", "clippings"]
    files: Places
    fields: Mapping[str, Places]
    date: Places
    header: frozenset[str] = frozenset()
    head: re.Pattern[str] | None = None
    records: str = ""
    also: Places = ()
    rules: tuple[Rule, ...] = ()
    clean: Callable[[Any], Any] = field(default=lambda value: value)
    sure: bool = True
    note: str = ""
    scale: str | None = None
    owner: str | None = None
    sender: str | None = None


def _is(*values: str) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, str) and value.strip() in values


def _begins(pattern: str) -> Callable[[Any], bool]:
    compiled = re.compile(pattern)
    return lambda value: isinstance(value, str) and compiled.match(value.lstrip()) is not None


def _is_zero(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r"\s*(?:0+(?:[.,]0*)?)?\s*", value) is not None


def _is_something(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


_DELETED = _is("[deleted]", "[removed]", "[deleted by user]", "[ Removed by Reddit ]")
_YTD = r"\s*window\.YTD\.{}\.part\d+\s*=\s*(?=[\[{{])"
_RETWEET = _begins(r"RT\s*:?\s*@\w+")
_NO_REVIEWS = "it holds no reviews, so the titles would stand in for your text"

_TWEETS = re.compile(
    _YTD.format("(?:deleted_|community_)?tweets?")
    + r"|\s*Grailbird\.data\.tweets_\w+\s*=\s*(?=\[)"  # one file a month, until 2019
    + r'|\s*\[\s*\{\s*"tweet"\s*:\s*\{'
)
_TELEGRAM = re.compile(
    r'\s*\{(?=.*?"(?:messages|chats|contacts)"\s*:\s*[\[{])'
    r'(?=.*?"(?:personal_information|from_id|date_unixtime|about)"\s*:'
    r'|.*?"type"\s*:\s*"(?:personal_chat|bot_chat|saved_messages|private_\w+|public_\w+)")',
    re.DOTALL,
)
_RETWEETS = tuple(
    Rule("retweets", f"{inside}{place}", test)
    for inside in ("tweet.", "")
    for place, test in (
        ("full_text", _RETWEET),
        ("text", _RETWEET),
        ("retweeted_status", lambda other: other is not None),
    )
)


def _rated(place: str) -> tuple[Rule, ...]:
    return (Rule("not rated", place, _is_zero, needs="score"),)


def _not_deleted(*places: str) -> tuple[Rule, ...]:
    return tuple(Rule("deleted", place, _DELETED) for place in places)


# name, form, files / fields, date / how it is known / what is left out, and the rest
LAYOUTS: tuple[Layout, ...] = (
    Layout("Goodreads library", "table", ("goodreads_library_export.csv",),
           {"text": ("My Review",), "score": ("My Rating",)}, ("Date Read", "Date Added"),
           header=frozenset({"Book Id", "My Rating", "My Review", "Exclusive Shelf"}),
           rules=_rated("My Rating"), clean=from_html),
    Layout("StoryGraph library", "table", ("storygraph_export.csv",),
           {"text": ("Review",), "score": ("Star Rating",)}, ("Last Date Read", "Date Added"),
           header=frozenset({"Read Status", "Star Rating", "Review"}),
           rules=_rated("Star Rating"), clean=from_html),
    Layout("Letterboxd reviews", "table", ("reviews.csv",),
           {"text": ("Review",), "score": ("Rating",)}, ("Watched Date", "Date"),
           header=frozenset({"Letterboxd URI", "Name", "Rating", "Review"}),
           rules=_rated("Rating"), clean=from_html),
    Layout("Letterboxd ratings", "table", ("ratings.csv", "diary.csv"),
           {"text": ("Name",), "score": ("Rating",)}, ("Watched Date", "Date"),
           header=frozenset({"Letterboxd URI", "Name", "Rating"}),
           rules=_rated("Rating"), sure=False,
           note="it holds no reviews, so the films' names would stand in for your text; your "
           "reviews are in reviews.csv of the same export"),
    Layout("IMDb ratings", "table", ("ratings.csv",),
           {"text": ("Title",), "score": ("Your Rating",)}, ("Date Rated",),
           header=frozenset({"Const", "Your Rating", "Date Rated", "Title"}),
           rules=_rated("Your Rating"), scale="1-10", sure=False, note=_NO_REVIEWS),
    Layout("IMDb ratings of before 2017", "table", ("ratings.csv",),
           {"text": ("Title",), "score": ("You rated",)}, ("created",),
           header=frozenset({"const", "created", "Title", "You rated"}),
           rules=_rated("You rated"), scale="1-10", sure=False, note=_NO_REVIEWS),
    Layout("Reddit posts", "table", ("posts.csv",),
           {"text": ("body",), "title": ("title",)}, ("date",),
           header=frozenset({"id", "permalink", "subreddit", "title", "body"}),
           rules=_not_deleted("body", "title"), clean=from_entities),
    Layout("Reddit comments", "table", ("comments.csv",),
           {"text": ("body",)}, ("date",),
           header=frozenset({"id", "permalink", "subreddit", "parent", "body"}),
           rules=_not_deleted("body"), clean=from_entities),
    Layout("Reddit messages", "table", ("messages.csv", "messages_archive.csv"),
           {"text": ("body",)}, ("date",),
           header=frozenset({"id", "from", "to", "subject", "body"}),
           rules=_not_deleted("body"), clean=from_entities, sender="from"),
    Layout("Reddit chats", "table", ("chat_history.csv",),
           {"text": ("message",)}, ("created_at",),
           header=frozenset({"message_id", "created_at", "username", "message", "channel_url"}),
           rules=_not_deleted("message"), clean=from_entities, sender="username"),
    Layout("Twitter/X archive", "json", ("tweets.js", "tweet.js"),
           {"text": ("tweet.full_text", "full_text", "tweet.text", "text")},
           ("tweet.created_at", "created_at"),
           head=_TWEETS, records="[]",
           rules=_RETWEETS, clean=from_entities),
    Layout("Twitter archive of before 2019", "table", ("tweets.csv",),
           {"text": ("text",)}, ("timestamp",),
           header=frozenset({"tweet_id", "timestamp", "text", "retweeted_status_id"}),
           rules=(Rule("retweets", "retweeted_status_id", _is_something),
                  Rule("retweets", "text", _RETWEET)), clean=from_entities),
    Layout("long tweets of a Twitter/X archive", "json", ("note-tweet.js",),
           {"text": ("noteTweet.core.text",)}, ("noteTweet.createdAt",),
           head=re.compile(_YTD.format("note_tweet")), records="[]", clean=from_entities),
    Layout("Mastodon outbox", "json", ("outbox.json",),
           {"text": ("object.content",)}, ("published", "object.published"),
           head=re.compile(r'\s*\{.*?"orderedItems"\s*:\s*\[', re.DOTALL), records="orderedItems[]",
           rules=(Rule("boosts", "type", _is("Announce")),
                  Rule("not posts", "type", lambda kind: kind not in ("Create", "Announce"))),
           clean=from_html),
    Layout("Telegram chats", "json", ("result.json",),
           {"text": ("text",)}, ("date_unixtime", "date"),
           head=_TELEGRAM, records="messages[]",
           also=("chats.list[].messages[]", "left_chats.list[].messages[]"),
           rules=(Rule("service messages", "type", lambda kind: kind != "message"),
                  Rule("forwarded", "forwarded_from", lambda name: name is not None)),
           clean=from_parts, owner="personal_information.user_id", sender="from_id"),
    Layout("WhatsApp chat", "whatsapp", ("_chat.txt", "WhatsApp Chat with ….txt"),
           {"text": ("text",)}, ("date",),
           rules=(Rule("media and notices", "kind", _is("media")),
                  Rule("service messages", "kind", _is("service"))), sender=FROM),
    Layout("Kindle clippings", "clippings", ("My Clippings.txt",),
           {"text": ("text",)}, ("date",),
           rules=(Rule("bookmarks", "kind", _is("bookmark")),
                  Rule("notices", "kind", _is("notice"))),
           sure=False, note="highlights are an author's words and not your own; notes are yours"),
)  # fmt: skip


def layout_of_header(names: set[str]) -> Layout | None:
    """The layout of a table with these columns: the one that knows most of them."""
    fitting = [lay for lay in LAYOUTS if lay.header and lay.header <= names]
    return max(fitting, key=lambda layout: len(layout.header), default=None)


def layout_of_head(head: str) -> Layout | None:
    """The layout of JSON that begins with `head`."""
    return next((lay for lay in LAYOUTS if lay.head is not None and lay.head.match(head)), None)


def layout_of_form(form: str) -> Layout:
    """The layout of a text format of its own."""
    return next(lay for lay in LAYOUTS if lay.form == form)


# Words that headers of tables and keys of objects are made of. A name of other words may be a
# person's own text where the header is missing, and is not shown.
_HEADER_WORDS = """
about account added additional answer at author authors average binding body book bookshelf
bookshelves by category channel chat citation class code column comment comments const contact
content contents copies count country created creator data date datetime day description device
directors duration email entry episode event exclusive f feedback field file film folder format
from genre genres group guid headline hour id identifier image index input isbn item key kind l
label labels language link list location media message messages method mins minutes mode
modified month my name names note notes num number of on order original output overall own owned
page pages parent path permalink platform plot position positions post product project prompt
publication published publisher quantity query question rank rate rated rating ratings read
reader record release reply response result review reviewer reviews row runtime score season
section sender sent series shelf site size source spoiler star stars status style subject
subreddit subtitle summary tag tags text thread time timestamp title titles to topic total tweet
type types uid unit updated uri url user username value version views visit visited visits votes
watched with written year years your
"""
_WORDS = frozenset(_HEADER_WORDS.split())
_KNOWN = frozenset(
    place
    for layout in LAYOUTS
    for place in (*layout.header, *layout.date, *(p for ps in layout.fields.values() for p in ps))
)
_WORD = re.compile(r"[A-Za-z]+|[0-9]+|[^A-Za-z0-9\s_.?/()#&-]")
MAX_NAME_CHARS = 60


def is_known_name(name: str, fields: frozenset[str] = frozenset()) -> bool:
    """Whether a name is one that headers have, so that it may be shown; `fields`: a task's own."""
    if name in _KNOWN or name in fields:
        return True
    # camelCase and snake_case are words too.
    words = _WORD.findall(re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name[: MAX_NAME_CHARS + 1]))
    return (
        0 < len(name) <= MAX_NAME_CHARS
        and 0 < len(words) <= 6
        and all(word.lower() in _WORDS or (word.isdigit() and len(word) <= 2) for word in words)
        and any(word.isalpha() for word in words)
    )
