"""Settings of `proper`: option, then variable, then file, then default, for every one of them."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from types import NoneType
from typing import Any, get_args

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.main import get_command

from client.cli import app, run_cli
from client.person.workspace import Keys
from client.settings.file import read_settings, set_value, unset
from client.settings.model import Settings
from client.settings.names import KEYS, SETTINGS
from client.settings.sources import Source, settled
from client.terminal.session import Session
from proper_model.errors import ConfigError

# Of every setting: what the file, the variable and the option say, and what comes of each.
SAID: dict[str, tuple[Any, str, tuple[str, ...], Any, Any, Any, Any]] = {
    "home": ("/a", "/b", ("--home", "/c"), Path("/a"), Path("/b"), Path("/c"), None),
    "passphrase_file": (
        *("/a", "/b", ("--passphrase-file", "/c")),
        *(Path("/a"), Path("/b"), Path("/c"), None),
    ),
    "key_file": ("/a", "/b", ("--key-file", "/c"), Path("/a"), Path("/b"), Path("/c"), None),
    "unlock": ("keyring", "ask", ("--unlock", "auto"), "keyring", "ask", "auto", None),
    "threads": (2, "3", ("--threads", "4"), 2, 3, 4, None),
    "max_memory": (2, "3.5", ("--max-memory", "4"), 2.0, 3.5, 4.0, None),
    "base_weights": ("4bit", "8bit", ("--base-weights", "full"), "4bit", "8bit", "full", None),
    "recompute": (True, "0", ("--recompute",), True, False, True, False),
    "max_items": (5, "6", ("--max-items", "7"), 5, 6, 7, None),
    "lenient": (True, "no", ("--lenient",), True, False, True, False),
    "date_order": ("dmy", "mdy", ("--date-order", "dmy"), "dmy", "mdy", "dmy", None),
}


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The place of an own file of settings, which is not there yet."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    return tmp_path / "proper" / "config.toml"


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(0o600)
    return path


def toml(name: str, value: Any) -> str:
    return f"{name} = {json.dumps(value)}\n"


def used(name: str, option: tuple[str, ...] = ()) -> Any:
    """The value by which every command goes that knows the setting; they must agree."""
    before = get_command(app)
    assert isinstance(before, click.Group)
    found: list[Any] = []
    commands = {
        called: command
        for called, command in before.commands.items()
        if any(p.name == name for p in command.params)
    }
    everywhere = any(p.name == name for p in before.params)
    for called, command in ({"path": before.commands["path"]} if everywhere else commands).items():

        def probe(**given: Any) -> None:
            session = click.get_current_context().find_object(Session)
            found.append(getattr(session, name) if everywhere else given[name])

        command.callback = probe
        needed = [f"X{n}" for n, p in enumerate(command.params) if p.required]
        words = [*option, called] if everywhere else [called, *option, *needed]
        before.main(words, "proper", standalone_mode=False, obj=Session())
    assert found
    assert all(value == found[0] for value in found)
    return found[0]


@pytest.mark.parametrize("name", SETTINGS)
def test_option_then_variable_then_file_then_default(
    name: str, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_file, in_variable, option, of_file, of_variable, of_option, default = SAID[name]
    assert used(name) == default
    write(file, toml(name, in_file))
    assert used(name) == of_file
    monkeypatch.setenv(SETTINGS[name].variable, in_variable)
    assert used(name) == of_variable
    assert used(name, option) == of_option
    monkeypatch.setenv(SETTINGS[name].variable, "")
    assert used(name) == of_file


def test_a_switch_that_is_on_in_the_file_can_be_put_off(file: Path) -> None:
    write(file, "recompute = true\nlenient = true\n")
    assert used("recompute", ("--no-recompute",)) is False
    assert used("lenient", ("--no-lenient",)) is False


def test_who_names_a_key_names_the_whole_way_to_open(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(file, toml("key_file", "/file"))
    monkeypatch.setenv("PROPER_PASSPHRASE_FILE", "/variable")
    assert used("key_file") is None
    assert used("passphrase_file") == Path("/variable")
    assert used("passphrase_file", ("--unlock", "ask")) is None


def test_two_variables_that_both_open_are_refused_where_a_key_is_wanted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PROPER_PASSPHRASE_FILE", "/a")
    monkeypatch.setenv("PROPER_KEY_FILE", "/b")
    assert (used("passphrase_file"), used("key_file")) == (Path("/a"), Path("/b"))
    with pytest.raises(ConfigError, match="not both") as caught:
        Keys(Path("/a"), Path("/b")).given()
    assert "unset one of PROPER_PASSPHRASE_FILE and PROPER_KEY_FILE" in str(caught.value.hint)


LAYERS = st.dictionaries(st.sampled_from(sorted(SETTINGS)), st.integers(0, 9))


@given(flags=LAYERS, environment=LAYERS, file=LAYERS)
def test_each_value_is_of_the_strongest_that_says_it(
    flags: dict[str, int], environment: dict[str, int], file: dict[str, int]
) -> None:
    """Written apart from the code: keys go as one, all others by themselves."""
    layers = [(Source.FLAG, flags), (Source.ENVIRONMENT, environment), (Source.FILE, file)]
    found = settled(flags, environment, file)
    assert list(found) == list(SETTINGS)
    for name, value in found.items():
        group = KEYS if name in KEYS else (name,)
        strongest = [one for one in layers if set(group) & set(one[1])][:1]
        expected = [(source, said[name]) for source, said in strongest if name in said]
        assert [(value.source, value.value)] == (expected or [(Source.DEFAULT, None)])


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("max_memry = 4\n", "max_memry: no such setting", "did you mean max_memory?"),
        ('max_memory = "4"\n', "max_memory: expected a number of GiB above 0", "config set max_m"),
        ("max_memory = -1\n", "max_memory: expected a number", "unset max_memory"),
        ("max_memory = true\n", "max_memory: expected a number", "unset max_memory"),
        ("threads = 0\n", "threads: expected a whole number from 1", "unset threads"),
        ("threads = 1.5\n", "threads: expected a whole number", "unset threads"),
        ("recompute = 1\n", "recompute: expected true or false", "unset recompute"),
        ('home = "here"\n', "home: expected a folder, as a whole path", "set home"),
        ('home = "~nobody-of-that-name/x"\n', "home: expected a folder", "unset home"),
        ('home = "/a\\u0000b"\n', "home: expected a folder", "unset home"),
        ('passphrase = "zqsecret"\n', "a secret is never kept", "passphrase_file FILE"),
        ('Password = "zqsecret"\n', "a secret is never kept", "passphrase_file FILE"),
        ('passphrase_file = "zqsecret word"\n', "passphrase_file: expected a file", "unset"),
        ('passphrase_file = "/a"\nkey_file = "/b"\n', "both are set", "unset key_file"),
        ('key_file = "/b"\nunlock = "ask"\n', "key_file and unlock: both", "unset unlock"),
        ("[adapt]\nmax_memory = 4\n", "adapt: no such setting", "unset NAME"),
        ("max_memory = \n", "not TOML", "mend the file"),
        ("\udcff", "not UTF-8", "mend the file"),
    ],
)
def test_a_wrong_file_is_refused_before_anything_else(
    text: str, message: str, hint: str, file: Path, tmp_path: Path, capsys: Any
) -> None:
    file.parent.mkdir()
    file.write_bytes(text.encode(errors="surrogateescape"))
    made = tmp_path / "moods.toml"
    words = ["new-task", str(made), "--name", "m", "--item", "{a} b: {c}", "--answer", "text"]
    assert run_cli(words) == 11
    assert not made.exists()
    error, then = capsys.readouterr().err.splitlines()
    assert str(file) in error
    assert message in error
    assert hint in then
    assert "zqsecret" not in error + then
    # What shows and mends it works.
    assert run_cli(["config"]) == 11
    shown = capsys.readouterr()
    assert "max_memory" in shown.out
    assert message in shown.err
    assert run_cli(["adapt", "--help"]) == 0
    assert "HISTORY" in capsys.readouterr().out
    assert run_cli(["--home", str(tmp_path / "home"), "doctor", "--json"]) == 51
    findings = json.loads(capsys.readouterr().out)["findings"]
    assert (findings[0]["name"], findings[0]["ok"]) == ("settings", False)
    assert message in findings[0]["told"]
    assert str(file) not in findings[0]["told"]  # it may be sent along with a question
    assert "zqsecret" not in json.dumps(findings)


def test_a_file_that_others_may_write_is_refused(file: Path, capsys: Any) -> None:
    write(file, "threads = 1\n").chmod(0o620)
    assert run_cli(["path"]) == 11
    assert f"chmod 600 {file}" in capsys.readouterr().err


def test_a_named_file_must_be_there(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    other = tmp_path / "other.toml"
    assert run_cli(["--config", str(other), "path"]) == 11
    assert "there is no such file" in capsys.readouterr().err
    assert run_cli(["--config", str(other), "config", "set", "threads", "2"]) == 0
    assert read_settings(other) == {"threads": 2}
    monkeypatch.setenv("PROPER_CONFIG", str(other))
    assert used("threads") == 2
    assert run_cli(["config", "path"]) == 0
    assert str(other) in capsys.readouterr().out


def test_a_folder_is_no_file_of_settings(tmp_path: Path, capsys: Any) -> None:
    for words in (["path"], ["config", "set", "threads", "2"]):
        assert run_cli(["--config", str(tmp_path), *words]) == 11
        told = capsys.readouterr().err
        assert f"{tmp_path}: a folder, expected a file of settings" in told
        assert str(tmp_path / "config.toml") in told
    assert list(tmp_path.iterdir()) == []


def test_a_name_that_cannot_be_a_file_is_no_internal_error(
    monkeypatch: Any, tmp_path: Path, capsys: Any
) -> None:
    assert run_cli(["--config", str(tmp_path / ("x" * 300)), "path"]) == 20
    monkeypatch.setenv("PROPER_CONFIG", "~nobody-of-that-name/x")
    assert run_cli(["path"]) == 11
    assert "no home folder is known" in capsys.readouterr().err


@pytest.mark.parametrize("name", SETTINGS)
def test_a_variable_that_says_nonsense_is_named(
    name: str, file: Path, monkeypatch: Any, capsys: Any
) -> None:
    """Also of options before the command; what shows and mends works, and shows all the rest."""
    write(file, "max_items = 5\n" if name != "max_items" else "threads = 5\n")
    monkeypatch.setenv(SETTINGS[name].variable, "~zqmuch/x")
    assert run_cli(["path"]) == 11
    error, hint = capsys.readouterr().err.splitlines()
    assert f"{SETTINGS[name].variable}: {name}: expected {SETTINGS[name].expected}" in error
    assert f"the variable {SETTINGS[name].variable}" in hint
    assert run_cli(["config", "--json"]) == 11
    shown = capsys.readouterr()
    assert {one["source"] for one in json.loads(shown.out)["settings"]} == {"file", "default"}
    assert "zqmuch" not in error + hint + shown.out + shown.err
    assert run_cli(["config", "set", "lenient", "yes"]) == 0
    assert run_cli(["config", "set", "--help"]) == 0


def test_setting_keeps_remarks_and_is_for_the_owner_alone(file: Path) -> None:
    write(file, "# mine\nthreads = 1  # of two\n\nmax_memory = 4\n").chmod(0o644)
    assert set_value(file, "--max-memory", "2.5") == ("max_memory", 2.5)
    assert file.read_text() == "# mine\nthreads = 1  # of two\n\nmax_memory = 2.5\n"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert unset(file, "threads")
    assert not unset(file, "threads")
    assert file.read_text() == "# mine\n\nmax_memory = 2.5\n"
    assert [path.name for path in file.parent.iterdir()] == ["config.toml"]


def test_a_link_to_the_file_stays_one(file: Path, tmp_path: Path) -> None:
    kept = write(tmp_path / "dotfiles" / "proper.toml", "threads = 1\n")
    file.parent.mkdir()
    file.symlink_to(kept)
    set_value(file, "threads", "2")
    assert file.is_symlink()
    assert kept.read_text() == "threads = 2\n"


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("threads", "many", "expected a whole number"),
        ("thread", "1", "no such setting"),
        ("passphrase", "zqsecret", "never kept"),
        ("passphrase_file", "zqsecret", "there is no such file"),
        ("unlock", "ask", "key_file and unlock"),
        ("max_memory", "-1", "expected a number of GiB above 0"),
        ("home", "", "home: expected a folder"),
        ("home", "~nobody-of-that-name/x", "home: expected a folder"),
        ("home", "/\udcff", "not UTF-8"),
    ],
)
def test_what_is_refused_changes_nothing(file: Path, name: str, value: str, message: str) -> None:
    write(file, 'key_file = "/k"\n')
    with pytest.raises(ConfigError, match=message) as caught:
        set_value(file, name, value)
    assert "zqsecret" not in f"{caught.value.message} {caught.value.hint}"
    assert run_cli(["config", "set", name, value]) == 11
    assert file.read_text() == 'key_file = "/k"\n'


@pytest.mark.parametrize("name", ["max_memory", "max-memory", "--max-memory"])
def test_a_setting_goes_by_its_options_name_too(name: str, file: Path) -> None:
    assert run_cli(["config", "set", name, "4"]) == 0
    assert read_settings(file) == {"max_memory": 4.0}
    assert run_cli(["config", "unset", name]) == 0
    assert read_settings(file) == {}


@pytest.mark.parametrize("name", [name for name in SETTINGS if SETTINGS[name].choices])
def test_what_is_completed_is_taken_and_nothing_else(name: str, file: Path) -> None:
    """The list for completion is the one of the type, and what errors name."""
    for choice in SETTINGS[name].choices:
        set_value(file, name, choice)
        assert choice in SETTINGS[name].expected
    kind = Settings.model_fields[name].annotation
    allowed = [get_args(one) or ("true", "false") for one in get_args(kind) if one is not NoneType]
    assert [SETTINGS[name].choices] == allowed


def test_a_switch_is_told_as_it_is_typed(file: Path, capsys: Any) -> None:
    assert run_cli(["config", "set", "recompute", "yes"]) == 0
    assert capsys.readouterr().out.startswith("recompute is true from now on")


def test_a_faulty_line_can_be_taken_out(file: Path) -> None:
    write(file, "colour = 1\nthreads = 2\n")
    assert unset(file, "colour")
    assert read_settings(file) == {"threads": 2}


def test_config_shows_where_each_value_is_from(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    write(file, "threads = 1\nmax_memory = 4\n")
    monkeypatch.setenv("PROPER_MAX_MEMORY", "3")
    assert run_cli(["--home", "/x", "config", "--json"]) == 0
    shown = {one["name"]: one for one in json.loads(capsys.readouterr().out)["settings"]}
    assert list(shown) == list(SETTINGS)
    assert (shown["home"]["value"], shown["home"]["source"]) == ("/x", "flag")
    assert (shown["max_memory"]["value"], shown["max_memory"]["source"]) == (3.0, "environment")
    assert (shown["threads"]["value"], shown["threads"]["source"]) == (1, "file")
    assert (shown["unlock"]["value"], shown["unlock"]["source"]) == (None, "default")
