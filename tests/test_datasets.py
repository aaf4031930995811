"""People out of datasets: columns, order, questions, what is wrong where; and nothing of them on disk.

The library and its hub client are the real ones; the hub is tests/hub_server.py.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, date, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import datasets
import hub_server
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from proper_model.data import apply_split
from proper_model.errors import ConfigError, DataError
from proper_model.tasks import HistoryItem, Population, Report, load_task, shipped_tasks
from proper_model.tasks.task import Task, example_tasks, task_from_toml
from simulations.setup import sources
from simulations.setup.columns import find_columns, parse_columns
from simulations.setup.dataset_people import distinct, moment_of, question_of, read_dataset
from simulations.setup.dataset_rows import is_dataset, parse_name
from simulations.setup.options import RunOptions
from simulations.setup.sources import read_data, validate_data

CANARY = "quagmirevelvet"
ROWS = [
    {"user_id": "ann", "text": "rain again", "mood": "calm", "date": "2024-05-03", "likes": 3},
    {"user_id": "bob", "text": "no coffee", "mood": "angry", "date": "2024-05-01", "likes": 1},
    {"user_id": "ann", "text": "first sun", "mood": "calm", "date": "2024-05-01", "likes": 0},
    {"user_id": None, "text": "nobody's", "mood": "calm", "date": "2024-05-01", "likes": 0},
    {"user_id": "ann", "text": "too loud", "mood": "angry", "date": "2024-05-02", "likes": 9},
    {"user_id": "", "text": "nor theirs", "mood": "calm", "date": "2024-05-01", "likes": 0},
    {"user_id": "bob", "text": "tea then", "mood": "calm", "date": "2024-04-30", "likes": 2},
]


@pytest.fixture(scope="module")
def task() -> Task:
    return task_from_toml(
        'name = "moods"\nkind = "classification"\ntemplate = "short"\nfields = ["text", "mood"]\n'
        'metrics = ["accuracy"]\n[labels]\nvalues = ["calm", "angry"]\n'
        '[history.short]\nprompt = "note: {text} mood:"\nanswer = "{mood}"\n'
        '[templates.short]\nquery = "note: {text} mood:"\nhistory = "short"\n'
        'line = "note: {text} mood: {mood}\\n"\n'
    )


def jsonl(rows: Sequence[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def parquet(rows: Sequence[dict[str, Any]]) -> bytes:
    out = BytesIO()
    pq.write_table(pa.Table.from_pylist(list(rows)), out)
    return out.getvalue()


def folder(path: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return path


def read(data: str, task: Task, columns: str | None = None, **more: Any) -> Population:
    return read_dataset(
        parse_name(data), task, parse_columns(columns), report=more.pop("report", Report()), **more
    )


def said(population: Population) -> dict[str, tuple[list[str], list[tuple[str, str]]]]:
    """By user: the texts of the history, and (question, answer) of the queries."""
    return {
        user.user_id: (
            [item.fields["text"] for item in user.history],
            [(query.input, query.gold) for query in user.queries],
        )
        for user in population.pooled
    }


EXPECTED = {
    "ann": (["first sun", "too loud"], [("rain again", "calm")]),
    "bob": (["tea then"], [("no coffee", "angry")]),
}


# --- rows to people ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "form"), [("train.jsonl", jsonl), ("data/train.parquet", parquet)]
)
def test_rows_become_people_by_time(name: str, form: Any, task: Task, tmp_path: Path) -> None:
    path = folder(tmp_path / "notes", {name: form(ROWS)})
    report = Report()
    population = read(f"hf:{path}", task, report=report)
    assert population.name == "notes"
    assert population.test == ()
    assert said(population) == EXPECTED
    (problem,) = report.problems
    assert str(problem) == (
        f"hf:{path}, split train, field user_id: 2 rows without a user are left out"
    )


def test_columns_of_other_names_are_mapped(task: Task, tmp_path: Path) -> None:
    renamed = [
        {"author": r["user_id"], "body": r["text"], "mood": r["mood"], "at": r["date"]}
        for r in ROWS
    ]
    path = folder(tmp_path, {"train.jsonl": jsonl(renamed)})
    columns = "user=author, text=body,date=at"
    assert said(read(f"hf:{path}", task, columns)) == EXPECTED


def test_labels_stored_as_numbers_and_times_are_read(task: Task, tmp_path: Path) -> None:
    """Times of one day, which dates alone would not order."""
    features = datasets.Features(
        {
            "user_id": datasets.Value("int64"),
            "text": datasets.Value("string"),
            "mood": datasets.ClassLabel(names=["calm", "angry"]),
            "date": datasets.Value("timestamp[s]"),
        }
    )
    rows = {
        "user_id": [7, 7, 7],
        "text": ["noon", "night", "dawn"],
        "mood": [1, 0, 1],
        "date": [datetime(2024, 5, 1, hour) for hour in (12, 22, 5)],  # noqa: DTZ001 - as arrow has them
    }
    datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "train.parquet")
    (user,) = read(f"hf:{tmp_path}", task).pooled
    assert user.user_id == "7"
    assert [(i.fields["text"], i.fields["mood"]) for i in user.history] == [
        ("dawn", "angry"),
        ("noon", "angry"),
    ]
    assert user.history[0].date == "2024-05-01"
    assert [(query.input, query.gold) for query in user.queries] == [("night", "calm")]


def test_arrow_folders_are_read_with_and_without_splits(task: Task, tmp_path: Path) -> None:
    rows = datasets.Dataset.from_list(ROWS)
    rows.save_to_disk(tmp_path / "one")
    parts = datasets.DatasetDict({"train": rows, "rest": rows.select([0, 2, 4])})
    parts.save_to_disk(tmp_path / "many")
    for data in ("one", "many"):
        assert is_dataset(str(tmp_path / data))
        assert said(read(str(tmp_path / data), task)) == EXPECTED
        assert said(read(f"hf:{tmp_path / data}:train", task)) == EXPECTED
    assert set(said(read(f"hf:{tmp_path / 'many'}:rest", task))) == {"ann"}
    assert not is_dataset(str(tmp_path))


def test_without_times_rows_stand_oldest_first(task: Task, tmp_path: Path) -> None:
    rows = [{"user": "u", "text": f"note {i}", "mood": "calm"} for i in range(10)]
    path = folder(tmp_path, {"train.jsonl": jsonl(rows)})
    (user,) = read(f"hf:{path}", task).pooled
    assert [item.fields["text"] for item in user.history] == [f"note {i}" for i in range(8)]
    assert [query.input for query in user.queries] == ["note 8", "note 9"]
    assert [query.id for query in user.queries] == ["8", "9"]


def test_times_of_all_kinds() -> None:
    day = datetime(2024, 5, 1, tzinfo=UTC)
    for value in ("2024-05-01", "2024-05-01T00:00:00Z", date(2024, 5, 1), day, 1714521600):
        assert moment_of(value) == (day, "2024-05-01")
    assert moment_of(1714521600000) == (day, "2024-05-01")
    assert moment_of("2024-05-01T01:00:00+01:00") == (day, "2024-05-01")
    year = (datetime(2019, 1, 1, tzinfo=UTC), "2019")
    assert moment_of(2019) == moment_of("2019") == moment_of(2019.0) == year
    for value in ("soon", 2019.5, 10**30, True, [2019], "2024-13-01"):
        assert moment_of(value) is None


def test_a_question_is_asked_as_items_are_trained_on() -> None:
    """For every shipped task whose questions can be worded as its histories are."""
    asked = 0
    for name in (*shipped_tasks(), *example_tasks()):
        task = load_task(name, template="short")
        values = {field: f"some {field} of theirs" for field in task.fields}
        item = HistoryItem("1", values)
        query = question_of(item, task)
        example = task.history_example(item)
        assert (query.id, query.gold) == ("1", example.answer)
        asked += task.query_example(query).prompt == example.prompt
    assert asked == len((*shipped_tasks(), *example_tasks()))


# --- what is wrong, and where --------------------------------------------------------------------


def test_a_missing_column_is_told_with_all_there_are(task: Task, tmp_path: Path) -> None:
    path = folder(tmp_path, {"train.jsonl": jsonl([{"author": "a", "body": "x", "mood": "calm"}])})
    with pytest.raises(DataError) as raised:
        read(f"hf:{path}", task)
    assert raised.value.message == (
        f"hf:{path}, split train: no column 'user_id' or 'user', expected an id of who wrote the row; "
        "columns: author, body, mood"
    )
    assert raised.value.hint == "--columns user=COLUMN says which one it is"
    with pytest.raises(
        DataError, match="no column 'text', expected the text of field text of task"
    ):
        read(f"hf:{path}", task, "user=author")
    with pytest.raises(DataError, match="no column 'who'"):
        read(f"hf:{path}", task, "user=who")
    with pytest.raises(
        ConfigError, match="'bodi' is nothing that task moods knows, expected one of"
    ):
        read(f"hf:{path}", task, "bodi=body")


def test_a_fault_of_a_row_is_told_by_row_and_column(task: Task, tmp_path: Path) -> None:
    good = {"user": "a", "body": f"{CANARY} x", "mood": "calm", "at": "2024-05-01"}
    rows = [good, {**good, "body": None}, {**good, "mood": CANARY}, {**good, "at": CANARY}]
    path = folder(tmp_path, {"train.jsonl": jsonl(rows)})
    report = Report(strict=False)
    read(f"hf:{path}", task, "text=body,date=at", report=report)
    where = f"hf:{path}, split train, record"
    assert [str(problem) for problem in report.problems if problem.severity == "error"] == [
        f"{where} 1, field body: empty, expected the text of field text of task moods",
        f"{where} 3, field at: not a time of the calendar, expected a date, a time or seconds since 1970",
    ]
    with pytest.raises(DataError, match="record 1, field body: empty, expected the text of field"):
        read(f"hf:{path}", task, "text=body,date=at")
    answered = folder(tmp_path / "two", {"train.jsonl": jsonl([good, rows[2]])})
    with pytest.raises(
        DataError, match="record 1, field gold: the answer of query '1' is not among"
    ):
        read(f"hf:{answered}", task, "text=body")


def test_names_and_splits_that_are_not_there(task: Task, tmp_path: Path) -> None:
    path = folder(tmp_path / "d", {"one.test.jsonl": jsonl(ROWS), "one.train.jsonl": jsonl(ROWS)})
    with pytest.raises(DataError, match="no split 'dev', expected one of train, test"):
        read(f"hf:{path}:dev", task)
    for wrong in ("hf:", "hf:a b", "hf:a/b@", "hf:a/b:c:d"):
        with pytest.raises(ConfigError, match="expected hf:NAME"):
            RunOptions(data=wrong, out=tmp_path / "out", task="LaMP_2M", base="b")
    with pytest.raises(ConfigError, match="a folder has no revisions"):
        parse_name(f"hf:{path}@main")
    with pytest.raises(DataError, match="no such folder"):
        parse_name(f"hf:{tmp_path}/gone")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(DataError, match="cannot be opened"):
        read(f"hf:{empty}", task)


def test_a_head_that_is_a_row_is_not_quoted(task: Task, tmp_path: Path) -> None:
    """A table without a head has its first row as names of columns."""
    text = f"ann,it is {CANARY} here,calm\nbob,no coffee,angry\n"
    path = folder(tmp_path, {"train.csv": text.encode()})
    with pytest.raises(DataError) as raised:
        read(f"hf:{path}", task)
    assert CANARY not in f"{raised.value.message}{raised.value.hint}"
    assert raised.value.message.endswith(
        "columns: ann, calm, 1 other whose names are no single words"
    )


def test_rows_of_one_id_become_questions_of_their_own(task: Task, tmp_path: Path) -> None:
    rows = [
        {"user": "u", "id": name, "text": f"note {i}", "mood": "calm"}
        for i, name in enumerate(["h"] * 16 + ["a", "a", "a-1", "a"])
    ]
    path = folder(tmp_path, {"train.jsonl": jsonl(rows)})
    (user,) = read(f"hf:{path}", task).pooled
    assert [query.id for query in user.queries] == ["a", "a-2", "a-1", "a-3"]
    assert [query.input for query in user.queries] == [f"note {i}" for i in range(16, 20)]
    assert len(set(distinct(["x"] * 2000))) == 2000


def test_an_id_of_lines_is_refused_unquoted(task: Task, tmp_path: Path) -> None:
    rows = [{"user": "u", "id": f"{CANARY}\nx", "text": "t", "mood": "calm"}] * 2
    path = folder(tmp_path, {"train.jsonl": jsonl(rows)})
    with pytest.raises(DataError, match="field id: an id with control characters") as raised:
        read(f"hf:{path}", task)
    assert CANARY not in f"{raised.value.message}{raised.value.hint}"


def test_a_home_of_nobody_is_no_bug(task: Task) -> None:
    for data in ("~nobodyatall/x", "hf:~nobodyatall/x"):
        with pytest.raises(ConfigError, match="no home folder is known"):
            read_data(data, task, {})


def test_names_of_the_hub_are_taken_apart() -> None:
    name = parse_name("hf:org/notes/english@refs/convert/parquet:train.clean")
    assert (name.name, name.part, name.revision, name.split, name.folder) == (
        *("org/notes", "english", "refs/convert/parquet", "train.clean"),
        None,
    )
    assert name.short == "org/notes/english@refs/convert/parquet:train.clean"
    assert parse_name("hf:squad").name == "squad"
    assert parse_name("hf:org/notes").split is None


def test_columns_belong_to_datasets(task: Task, tmp_path: Path) -> None:
    for given in ("user", "user=", "=x", "user=a,,", "user=a,user=b"):
        with pytest.raises(ConfigError, match="--columns"):
            parse_columns(given)
    with pytest.raises(ConfigError, match="but the demo has none"):
        RunOptions(data="demo", out=tmp_path, columns="user=a")
    file = folder(tmp_path, {"user_others.json": b"[]"})
    with pytest.raises(ConfigError, match="--columns says what the columns of a dataset mean"):
        read_data(str(file), task, {"user": "a"})
    columns = find_columns(["user", "text", "mood", "else"], {}, task, where="x")
    assert columns.read == ["user", "text", "mood"]


def test_what_to_read_is_a_key_of_its_own(tmp_path: Path) -> None:
    """Experiments read people once for all runs that read the same."""
    given = RunOptions(data="hf:a/b", out=tmp_path, task="LaMP_2M", base="b", columns="user=who")
    readings = [replace(given, columns=named).runs()[0].reading for named in ("user=who", "user=x")]
    assert len(dict.fromkeys((*readings, given.runs()[0].reading))) == 2


def test_without_the_library_the_extra_is_named(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ConfigError, match="the extra 'datasets' of PROPER") as raised:
        read(f"hf:{tmp_path}", task)
    assert "pip install '.[datasets]'" in str(raised.value.hint)


def test_what_breaks_off_is_told_by_kind_alone(task: Task, tmp_path: Path, caplog: Any) -> None:
    """The words of the readers quote what they read."""
    whole = jsonl(ROWS) + f'{{"user_id": "{CANARY}", '.encode()
    path = folder(tmp_path, {"train.jsonl": whole})
    with pytest.raises(DataError, match=r"split train: cannot be (opened|read)") as raised:
        read(f"hf:{path}", task)
    assert CANARY not in f"{raised.value.message}{raised.value.hint}{caplog.text}"
    assert raised.value.__cause__ is None


def test_files_that_hold_objects_are_refused(task: Task, tmp_path: Path) -> None:
    path = folder(tmp_path, {"train.txt": b"a line"})
    with pytest.raises(DataError, match="files of kind 'text', expected arrow, csv, json, parquet"):
        read(f"hf:{path}", task)


def test_a_configuration_is_asked_for_only_where_there_are_several(
    task: Task, tmp_path: Path
) -> None:
    card = (
        b"---\nconfigs:\n- config_name: one\n  data_files: one.jsonl\n"
        b"- config_name: two\n  data_files: two.jsonl\n---\n"
    )
    files = {"README.md": card, "one.jsonl": jsonl(ROWS), "two.jsonl": jsonl(ROWS)}
    with pytest.raises(DataError, match="2 configurations, expected the name of one: one, two"):
        read(f"hf:{folder(tmp_path / 'two', files)}", task)
    # A card of no meaning is a fault of its own.
    wrong = {"README.md": b"---\nconfigs: 7\n---\n", "one.jsonl": jsonl(ROWS)}
    with pytest.raises(DataError, match=r"cannot be opened \(ValueError\)"):
        read(f"hf:{folder(tmp_path / 'wrong', wrong)}", task)


def test_what_is_asked_of_a_dataset_stands_in_its_split(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"user": f"u{i % 8}", "text": f"note {i}", "mood": "calm"} for i in range(40)]
    path = folder(tmp_path / "d", {"train.jsonl": jsonl(rows)})
    (tmp_path / "moods.toml").write_text(task.toml_text)
    monkeypatch.setattr(sources, "check_base", lambda *_: None)
    monkeypatch.setattr(sources, "_doubts", lambda *_: ())
    options = RunOptions(
        data=f"hf:{path}",
        out=tmp_path / "out",
        task=str(tmp_path / "moods.toml"),
        base=str(tmp_path),
        split="random:2",
    )
    (run,) = options.runs()
    source = sources.load_source(run.reading, lambda *_: None)
    assert source.people == "random:2, newest fifth of items asked"


def test_a_split_by_chance_makes_test_users(task: Task, tmp_path: Path) -> None:
    """As `given` there are none; `validate` says so and which split does it."""
    rows = [
        {"user": f"u{i % 8}", "text": f"note {i}", "mood": ("calm", "angry")[i % 2]}
        for i in range(40)
    ]
    path = folder(tmp_path, {"train.jsonl": jsonl(rows)})
    population, name = read_data(f"hf:{path}", task, {})
    split = apply_split(population, "random:2")
    assert (name, len(split.pooled), len(split.test)) == (path.name, 6, 2)
    found = validate_data(f"hf:{path}", task, None, lambda *_: None)
    assert found.ok
    assert (found.form, found.pooled.users, found.pooled.queries) == ("dataset", 8, 8)
    said = [problem.message for problem in found.problems]
    assert "a dataset names no test users; runs only with --split random:N" in said


# --- nothing of anybody on disk ------------------------------------------------------------------

# Temporary folders stay, so that what was in them is looked at too.
KEEPING = """
import sys, tempfile
kept = lambda self, *_: None
tempfile.TemporaryDirectory.__exit__ = tempfile.TemporaryDirectory.cleanup = kept
tempfile.TemporaryDirectory._cleanup = classmethod(lambda *_, **__: None)
"""
VALIDATING = f"""{KEEPING}
import json
from simulations.cli import run_cli
codes = [run_cli(arguments) for arguments in json.loads(sys.argv[1])]
print(codes, file=sys.stderr)
"""
CACHING = (
    "import sys, datasets\nd = datasets.load_dataset(sys.argv[1], split='train')\nprint(len(d))\n"
)


def child(code: str, arguments: Sequence[str], home: Path, **more: str) -> Any:
    """A process whose every cache and temporary folder lies below `home`."""
    home.mkdir(parents=True, exist_ok=True)
    for name in ("tmp", "hub", "datasets", "work"):
        (home / name).mkdir(exist_ok=True)
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("HF_")},
        "HOME": str(home),
        "XDG_CACHE_HOME": str(home / "xdg"),
        "TMPDIR": str(home / "tmp"),
        "HF_HOME": str(home / "hub"),
        "HF_DATASETS_CACHE": str(home / "datasets"),
        "PYTHONPATH": str(Path(__file__).resolve().parent.parent),
        "PYTHONDONTWRITEBYTECODE": "1",
        **more,
    }
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=home / "work",
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def holding(root: Path, word: str) -> list[Path]:
    return [
        path for path in root.rglob("*") if path.is_file() and word.encode() in path.read_bytes()
    ]


def notes(text: str) -> list[dict[str, Any]]:
    return [
        {"writer": f"{text}-{i % 4}", "text": f"{text} {i}", "mood": ("calm", "angry")[i % 2]}
        for i in range(24)
    ]


def test_the_scan_finds_what_the_library_itself_caches(tmp_path: Path) -> None:
    """The control: the same rows read as everybody reads them."""
    source = folder(tmp_path / "source", {"train.parquet": parquet(notes(CANARY))})
    done = child(CACHING, [str(source)], tmp_path / "home")
    assert done.stdout == "24\n", done.stderr
    assert holding(tmp_path / "home" / "datasets", CANARY)


def test_folders_and_the_hub_are_streamed_without_a_copy(task: Task, tmp_path: Path) -> None:
    """The whole command, over a folder of JSON, over parquet of the hub, and over a name it has not."""
    source = folder(tmp_path / "source", {"train.jsonl": jsonl(notes(CANARY))})
    (tmp_path / "moods.toml").write_text(task.toml_text)
    # A card may quote rows too.
    card, rows = f"One row: {CANARY} 0\n".encode(), parquet(notes(CANARY))
    with hub_server.running("org/notes", {"README.md": card, "data/train.parquet": rows}) as hub:
        lines = [
            ["validate", data, "--task", str(tmp_path / "moods.toml"), "--columns", "user=writer"]
            for data in (f"hf:{source}", "hf:org/notes@main:train", "hf:org/other")
        ]
        done = child(VALIDATING, [json.dumps(lines)], tmp_path / "home", HF_ENDPOINT=hub.url)
    assert f"[0, 0, {DataError.exit_code}]" in done.stderr, done.stderr + "\n".join(hub.seen)
    assert "hf:org/other: cannot be opened (DatasetNotFoundError)" in done.stderr
    assert done.stdout.count("dataset files, task moods") == 2
    assert CANARY not in done.stdout + done.stderr
    asked = f"/datasets/org/notes/resolve/{hub_server.COMMIT}/data/train.parquet"
    assert f"GET {asked}" in hub.seen
    # The card is in the folder that a command deletes when it is done, and nowhere else.
    left = [path for path in holding(tmp_path, CANARY) if source not in path.parents]
    assert {path.read_bytes() for path in left} == {card}
    assert all("proper-datasets-" in str(path) for path in left)
