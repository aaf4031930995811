"""Memory while a long history is read: bounded by what is kept, and by the text of one JSON value."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from proper_model.bundle.limits import MIB

# Growth of the process over what it has after its imports. Measured on Linux, Python 3.11: 49 MiB
# at 60,000 items, 94 MiB at a million.
BOUND_BYTES = 128 * MIB
READER = """
import json, sys
from pathlib import Path
from client.history.reading import ReadOptions, read_history
from proper_model.tasks.task import load_task
task = load_task("LaMP_3")
# Of this program alone: `ru_maxrss` also counts the process that started it.
status = lambda: dict(line.split(":", 1) for line in open("/proc/self/status"))
peak = lambda: int(status()["VmHWM"].split()[0]) * 1024
before = peak()
options = json.loads(sys.argv[2])
history = read_history(Path(sys.argv[1]), task, ReadOptions(**options))
print(json.dumps([peak() - before, history.read, len(history.items), dict(history.left_out)]))
"""


def measure(path, repository, **options):
    """(bytes of growth, read, kept, left out), in a process of its own."""
    result = subprocess.run(
        [sys.executable, "-c", READER, str(path), json.dumps(options)],
        cwd=repository,
        capture_output=True,
        check=True,
        text=True,
    )
    return json.loads(result.stdout)


def write(path, count, *, form="jsonl", words=100):
    """`count` items of about `words` characters, newest first."""
    text = "x" * words
    with path.open("w") as handle:
        if form == "lamp":
            handle.write('{"user_id": "me", "profile": [')
        for first in range(0, count, 1000):
            numbers = range(first, min(first + 1000, count))
            items = (
                f'{{"id": "i{n}", "text": "{text}{n}", "score": "{1 + n % 5}", '
                f'"date": "{2020 - n * 1000 // count}-01-01"}}'
                for n in numbers
            )
            if form == "lamp":
                handle.write((", " if first else "") + ", ".join(items))
            else:
                handle.write("\n".join(items) + "\n")
        if form == "lamp":
            handle.write("]}")


@pytest.mark.parametrize("form", ["jsonl", "lamp"])
def test_many_items_take_the_memory_of_those_that_are_kept(tmp_path, repository, form):
    path = tmp_path / "h.json"
    count = 30_000
    write(path, count, form=form, words=2000)
    assert path.stat().st_size > 60_000_000
    growth, read, kept, left_out = measure(path, repository, max_items=100)
    assert (read, kept, left_out) == (count, 100, {"older": count - 100})
    # Ids of 30,000 records are remembered. A user record is read whole: its bytes and its text.
    whole = 2 * path.stat().st_size if form == "lamp" else 0
    assert growth < whole + 24 * MIB
    # The measure sees memory: the control keeps them all.
    assert measure(path, repository, max_items=count)[0] > 60 * MIB


@pytest.mark.full
def test_a_million_items_are_read_in_bounded_memory(tmp_path, repository):
    path = tmp_path / "h.jsonl"
    write(path, 1_000_000)
    growth, read, kept, left_out = measure(path, repository)
    assert (read, kept, left_out) == (1_000_000, 20_000, {"older": 980_000})
    assert growth < BOUND_BYTES
