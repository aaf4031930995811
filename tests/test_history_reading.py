"""What a command says and asks before it takes the items of a known export."""

from __future__ import annotations

import pytest
import typer

from client.commands import reading
from client.commands.options import columns_of
from client.history.reading import ReadOptions
from proper_model.errors import ConfigError, DataError
from proper_model.tasks.task import load_task

RATINGS = (
    "Date,Name,Year,Letterboxd URI,Rating\n2023-01-05,zqxcanaryzq,2000,u,4\n2023-02-05,B,2000,u,\n"
)
COMMENTS = "id,permalink,date,subreddit,parent,body\nc,p,2024-05-18 04:35:32 UTC,s,,zqxcanaryzq\n"


@pytest.fixture
def take(tmp_path, monkeypatch):
    """`read_items` of a file, with somebody at a terminal who gives `answer`, or nobody."""

    def run(content, task, *, answer=None, yes=False, **options):
        path = tmp_path / "h.csv"
        path.write_text(content)
        asked = []
        for stream in (reading.sys.stdin, reading.sys.stderr):
            monkeypatch.setattr(stream, "isatty", lambda: answer is not None)

        def confirm(_question, *, default, **_):
            asked.append(default)
            return default if answer == "" else answer == "y"

        monkeypatch.setattr(reading.typer, "confirm", confirm)
        items = reading.read_items(str(path), load_task(task), ReadOptions(**options), yes=yes)
        return len(items), asked

    return run


def test_an_export_is_described_with_what_is_left_out(take, capsys):
    assert take(COMMENTS, "LaMP_7") == (1, [])
    assert take(RATINGS, "LaMP_3", yes=True) == (1, [])
    told = capsys.readouterr().err
    assert "h.csv: recognized as Reddit comments; date from date, text from body; 1 item\n" in told
    assert (
        "recognized as Letterboxd ratings; date from Watched Date or Date, text from Name, " in told
    )
    assert "left out: 1 item (not rated)\n" in told
    assert "zqxcanaryzq" not in told


def test_a_guess_is_asked_about(take):
    with pytest.raises(DataError, match="h.csv: Letterboxd ratings: it holds no reviews") as error:
        take(RATINGS, "LaMP_3")
    assert error.value.hint.startswith("if that is what you want: --yes, or --column")
    assert take(RATINGS, "LaMP_3", answer="y") == (1, [False])
    for answer in ("n", ""):  # the default of a guess is no
        with pytest.raises(typer.Abort):
            take(RATINGS, "LaMP_3", answer=answer)
    columns = {"text": "Name", "score": "Rating"}
    assert take(RATINGS, "LaMP_3", answer="n", columns=columns) == (1, []), "nothing left to ask"


def test_what_is_sure_is_asked_about_only_at_a_terminal(take):
    assert take(COMMENTS, "LaMP_7", answer="") == (1, [True])
    assert take(COMMENTS, "LaMP_7", answer="n", yes=True) == (1, [])
    assert take("text,score\nx,4\n", "LaMP_3", answer="n") == (1, []), "the task's own fields"


def test_columns_on_the_command_line():
    assert columns_of(["text=My Review", "date=", "score=a=b"]) == {
        "text": "My Review",
        "date": "",
        "score": "a=b",
    }
    for wrong in (["text"], ["=x"], ["text=a", "text=b"]):
        with pytest.raises(ConfigError, match="^--column"):
            columns_of(wrong)
