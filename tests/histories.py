"""Exports as sites write them, made up by hand, and what is read of each."""

from __future__ import annotations

import json

import pytest

from client.history.reading import ReadOptions, read_history
from proper_model.errors import DataError
from proper_model.tasks.task import load_task

SECRET = "canary-7f3a"
GOODREADS = (
    "Book Id,Title,Author,ISBN,My Rating,Average Rating,Date Read,Date Added,Exclusive Shelf,"
    "My Review,Spoiler,Private Notes,Read Count,Owned Copies\n"
)
STORYGRAPH = "Title,Authors,Read Status,Date Added,Last Date Read,Star Rating,Review,Owned?\n"
LETTERBOXD = "Date,Name,Year,Letterboxd URI,Rating"
IMDB = "Const,Your Rating,Date Rated,Title,Original Title,URL,Title Type,IMDb Rating,Year\n"
COMMENTS = "id,permalink,date,ip,subreddit,gildings,link,parent,body,media\n"
POSTS = "id,permalink,date,ip,subreddit,gildings,title,url,body\n"


def tweets(*texts, name="tweets"):
    entries = [
        {"tweet": {"full_text": text, "created_at": f"Wed Oct 10 20:19:{59 - n} +0000 2018"}}
        for n, text in enumerate(texts)
    ]
    return f"window.YTD.{name}.part0 = " + json.dumps(entries, indent=2)


def outbox(*activities):
    return json.dumps({"@context": "x", "type": "OrderedCollection", "orderedItems": activities})


def toot(day, content):
    published = f"2023-02-{day:02d}T10:11:12Z"
    return {"type": "Create", "published": published, "object": {"content": content}}


def said(number, sender, text, **more):
    message = {"id": number, "type": "message", "from": f"Name {sender}", "from_id": sender}
    date = {"date": "2023-01-01T10:00:00", "date_unixtime": str(1672567200 + number)}
    return {**message, **date, "text": text, **more}


MESSAGES = [
    {"id": 0, "type": "service", "date": "2023-01-01T09:00:00", "action": "x", "text": ""},
    said(1, "user42", ["see ", {"type": "link", "text": "x.org"}, " now"]),
    said(2, "user7", "theirs"),
    said(3, "user42", "passed on", forwarded_from="Somebody"),
    said(4, "user42", "", photo="a.jpg"),
    said(5, "user42", "mine"),
]
TELEGRAM = {
    "about": "Here is the data you requested.",
    "personal_information": {"user_id": 42, "first_name": "A"},
    "contacts": {"list": [{"first_name": "B", "deep": [[{"a": [1]}]]}]},
    "chats": {"about": "x", "list": [{"type": "personal_chat", "id": 7, "messages": MESSAGES}]},
}
ANDROID = """\
15/01/2024, 14:30 - Messages and calls are end-to-end encrypted. No one else can read them.
15/01/2024, 14:30 - Ada: Hello
second line: yes
16/01/2024, 14:31 - Bob: theirs
16/01/2024, 14:32 - Ada: <Media omitted>
17/01/2024, 09:00 - Ada: This message was deleted
17/01/2024, 09:01 - Ada: mended <This message was edited>
17/01/2024, 09:02 - Ada: IMG-1.jpg (file attached)
"""
IPHONE = (
    "[15/01/2024, 14:30:22] Ada: \u200eMessages and calls are end-to-end encrypted.\r\n"
    "[15/01/2024, 14:30:23] Ada: Hello\r\nsecond line: yes\r\n"
    "\u200e[15/01/2024, 14:30:24] Ada: \u200eimage omitted\r\n"
    "[15/01/2024, 14:30:25] ~\u202fBob: theirs\r\n"
)
KINDLE = """\
\ufeffA Book (An Author)
- Your Highlight on page 99 | Location 249-251 | Added on Thursday, 4 June 2020 12:18:46

an author's words
==========
A Book (An Author)
- Your Bookmark on page 99 | Added on Thursday, 4 June 2020 12:18:47


==========
Another
- Your Note on Location 1 | Added on Sunday, December 4, 2016 9:26:27 PM

my own words
==========
"""
NOT_RATED, EMPTY = "not rated", "without text or answer"

# name, content, task, options -> (date, fields) oldest first, what is left out
READ = {
    "goodreads": (
        ("goodreads_library_export.csv", "LaMP_3", {}),
        GOODREADS
        + "1,T,A,,5,3.9,2024/03/01,2024/02/11,read,Loved it.<br/><br/>Really &amp; so,,,1,0\n"
        '2,T,A,,2,3.9,,2024/01/02,read,"Too slow\nfor me",,,1,0\n'
        "3,T,A,,0,3.9,,2024/05/05,to-read,,,,0,0\n4,T,A,,4,3.9,2023/11/30,2023/10/01,read, ,,,1,0\n",
        [
            ("2024-01-02", {"text": "Too slow\nfor me", "score": "2"}),
            ("2024-03-01", {"text": "Loved it.\n\nReally & so", "score": "5"}),
        ],
        {NOT_RATED: 1, EMPTY: 1},
    ),
    "storygraph": (
        ("export.csv", "LaMP_3", {"scale": "quarter-stars:nearest"}),
        STORYGRAPH + "B,A,read,2024/01/02,2024/02/03,4.25,<div>fine</div>,No\n"
        "C,A,read,2024/01/01,,3.0,good,No\nD,A,to-read,2024/01/01,,,later,No\n",
        [
            ("2024-01-01", {"text": "good", "score": "3"}),
            ("2024-02-03", {"text": "fine", "score": "4"}),
        ],
        {NOT_RATED: 1},
    ),
    "letterboxd reviews": (
        ("reviews.csv", "LaMP_3", {"scale": "half-stars:round-up"}),
        LETTERBOXD + ",Rewatch,Review,Tags,Watched Date\n"
        '2024-02-12,Alien,1979,u,,,"Slow, and\nbetter",,2024-02-11\n'
        "2024-02-13,Heat,1995,u,3.5,,<i>Good</i>,,2024-02-10\n",
        [("2024-02-10", {"text": "Good", "score": "4"})],
        {NOT_RATED: 1},
    ),
    "letterboxd ratings": (
        ("ratings.csv", "LaMP_3", {"scale": "half-stars:round-down"}),
        LETTERBOXD + '\n2023-01-05,"Film, Part I",2000,u,4\n2023-01-04,Film 2,2000,u,0.5\n',
        [
            ("2023-01-04", {"text": "Film 2", "score": "1"}),
            ("2023-01-05", {"text": "Film, Part I", "score": "4"}),
        ],
        {},
    ),
    "imdb": (
        ("ratings.csv", "LaMP_3", {"scale": "1-10:1-5"}),
        IMDB
        + "tt1,9,2024-01-05,One,One,u,Movie,9.2,1972\ntt2,4,2023-01-05,Two,Two,u,Movie,5,1972\n",
        [
            ("2023-01-05", {"text": "Two", "score": "2"}),
            ("2024-01-05", {"text": "One", "score": "5"}),
        ],
        {},
    ),
    "imdb of old": (
        ("ratings.csv", "LaMP_3", {"scale": "1-10:1-5"}),
        '"position","const","created","modified","description","Title","Title type","You rated"\n'
        '"1","tt1","Sun Jan 22 00:00:00 2017","","","One","Feature Film","4"\n',
        [("2017-01-22", {"text": "One", "score": "2"})],
        {},
    ),
    "reddit comments": (
        ("comments.csv", "LaMP_7", {}),
        COMMENTS + 'c2,p,2025-05-18 04:35:32 UTC,,s,0,l,,"second, &gt; one",\n'
        "c1,p,2024-05-18 04:35:32 UTC,,s,0,l,,first,\nc3,p,2024-06-01 04:35:32 UTC,,s,0,l,,[deleted],\n",
        [("2024-05-18", {"text": "first"}), ("2025-05-18", {"text": "second, > one"})],
        {"deleted": 1},
    ),
    "reddit posts": (
        ("posts.csv", "LaMP_4", {}),
        POSTS + "c2,p,2025-05-18 04:35:32 UTC,,s,0,My title,u,A body\n"
        "c1,p,2024-05-18 04:35:32 UTC,,s,0,Link only,u,\n",
        [("2025-05-18", {"text": "A body", "title": "My title"})],
        {EMPTY: 1},
    ),
    "reddit messages": (
        ("messages.csv", "LaMP_7", {"sender": "me"}),
        "id,permalink,thread_id,date,ip,from,to,subject,body\n"
        "1,p,t,2024-05-18 04:35:32 UTC,,me,you,s,mine\n2,p,t,2024-05-18 04:36:32 UTC,,you,me,s,theirs\n",
        [("2024-05-18", {"text": "mine"})],
        {"of other people": 1},
    ),
    "reddit chats": (
        ("chat_history.csv", "LaMP_7", {"sender": "me"}),
        "message_id,created_at,updated_at,username,message,channel_url,subreddit\n"
        "1,2024-05-18 04:35:32 UTC,,me,mine,u,\n2,2024-05-18 04:36:32 UTC,,you,theirs,u,\n",
        [("2024-05-18", {"text": "mine"})],
        {"of other people": 1},
    ),
    "twitter": (
        ("tweets.js", "LaMP_7", {}),
        tweets("newest &amp; so on", "RT @someone: theirs", "@friend yes!", "oldest"),
        [
            ("2018-10-10", {"text": "oldest"}),
            ("2018-10-10", {"text": "@friend yes!"}),
            ("2018-10-10", {"text": "newest & so on"}),
        ],
        {"retweets": 1},
    ),
    "twitter of old": (
        ("tweet.js", "LaMP_7", {}),
        'window.YTD.tweet.part0 = [{"full_text": "old", "created_at": '
        '"Wed Oct 10 20:19:24 +0000 2018"}, {"full_text": "RT @a: x"}]\n',
        [("2018-10-10", {"text": "old"})],
        {"retweets": 1},
    ),
    "twitter without its first words": (
        ("tweets.json", "LaMP_7", {}),
        tweets("one").partition("= ")[2],
        [("2018-10-10", {"text": "one"})],
        {},
    ),
    "twitter by the month": (
        ("2013_05.js", "LaMP_7", {}),
        'Grailbird.data.tweets_2013_05 = \n [{"text": "mine &lt;3", "created_at": "2013-05-31 15:48:31 '
        '+0000"}, {"text": "cut", "retweeted_status": {"text": "theirs"}}, {"text": "RT  @a theirs"}];\n',
        [("2013-05-31", {"text": "mine <3"})],
        {"retweets": 2},
    ),
    "twitter as a table": (
        ("tweets.csv", "LaMP_7", {}),
        '"tweet_id","timestamp","text","retweeted_status_id"\n'
        '"2","2013-05-31 15:48:31 +0000","second &amp; last",""\n'
        '"1","2013-05-30 15:48:31 +0000","first",""\n"0","2013-05-30 14:48:31 +0000","theirs","9"\n',
        [("2013-05-30", {"text": "first"}), ("2013-05-31", {"text": "second & last"})],
        {"retweets": 1},
    ),
    "long tweets": (
        ("note-tweet.js", "LaMP_7", {}),
        'window.YTD.note_tweet.part0 = [{"noteTweet": {"createdAt": "2023-03-02T11:12:13.000Z", '
        '"core": {"text": "long &lt;3"}}}]',
        [("2023-03-02", {"text": "long <3"})],
        {},
    ),
    "mastodon": (
        ("outbox.json", "LaMP_7", {}),
        outbox(
            toot(3, '<p>hi <a href="u">@<span>bob</span></a> &amp; all</p><p>two<br>three</p>'),
            {"type": "Announce", "published": "2023-02-04T10:11:12Z", "object": "https://u"},
            toot(2, "<p>before</p>"),
            toot(1, ""),
        ),
        [
            ("2023-02-02", {"text": "before"}),
            ("2023-02-03", {"text": "hi @bob & all\n\ntwo\nthree"}),
        ],
        {"boosts": 1, EMPTY: 1},
    ),
    "telegram": (
        ("result.json", "LaMP_7", {}),
        json.dumps(TELEGRAM, indent=1),
        [("2023-01-01", {"text": "see x.org now"}), ("2023-01-01", {"text": "mine"})],
        {"service messages": 1, "of other people": 1, "forwarded": 1, EMPTY: 1},
    ),
    "one chat of telegram": (
        ("result.json", "LaMP_7", {"sender": "Name user42"}),
        json.dumps(TELEGRAM["chats"]["list"][0]),
        [("2023-01-01", {"text": "see x.org now"}), ("2023-01-01", {"text": "mine"})],
        {"service messages": 1, "of other people": 1, "forwarded": 1, EMPTY: 1},
    ),
    "telegram of before 2021": (
        ("result.json", "LaMP_7", {}),
        json.dumps(TELEGRAM).replace('"user42"', "42").replace('"user7"', "7"),
        [("2023-01-01", {"text": "see x.org now"}), ("2023-01-01", {"text": "mine"})],
        {"service messages": 1, "of other people": 1, "forwarded": 1, EMPTY: 1},
    ),
    "whatsapp on android": (
        ("WhatsApp Chat with Bob.txt", "LaMP_7", {"sender": "Ada"}),
        "\n\n" + ANDROID,
        [("2024-01-15", {"text": "Hello\nsecond line: yes"}), ("2024-01-17", {"text": "mended"})],
        {"service messages": 1, "of other people": 1, "media and notices": 3},
    ),
    "whatsapp on an iphone": (
        ("_chat.txt", "LaMP_7", {"sender": "Ada"}),
        IPHONE,
        [("2024-01-15", {"text": "Hello\nsecond line: yes"})],
        {"media and notices": 2, "of other people": 1},
    ),
    "kindle": (
        ("My Clippings.txt", "LaMP_7", {}),
        KINDLE.replace("\n", "\r\n"),
        [("2016-12-04", {"text": "my own words"}), ("2020-06-04", {"text": "an author's words"})],
        {"bookmarks": 1},
    ),
}


def put(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def reader(folder, name="h.csv", task="LaMP_3"):
    """A function that reads content as a file in `folder`, under these names where none are given."""

    def read(content, *, name=name, task=task, **options):
        task = load_task(task) if isinstance(task, str) else task
        return read_history(put(folder / name, content), task, ReadOptions(**options))

    return read


def refused(read, message, hint, *args, error=DataError, **options):
    """The error's message and hint, which quote nothing of the file."""
    with pytest.raises(error, match=message) as caught:
        read(*args, **options)
    assert hint in (caught.value.hint or "")
    assert SECRET not in f"{caught.value.message} {caught.value.hint}"
