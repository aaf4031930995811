"""What may be set beforehand: its name in the file, its option, its variable, and what it takes.

Only what several commands take, or what stands before a command, is here. `--retrieve` and
`--private-epsilon` are not: those are kept with the adapter, and a default would change it. A secret
is never a setting, only the name of the file that holds it.
"""

from __future__ import annotations

from dataclasses import dataclass

CONFIG_VARIABLE = "PROPER_CONFIG"  # another file of settings


@dataclass(frozen=True)
class Setting:
    """One setting. `name` is that of the option's parameter, too, whose help says what it is for.

    Attributes:
        expected: what its value may be, for errors.
        default: what holds where nothing is said.
        choices: all that it may be, for completion; empty where that is no short list.
    """

    name: str
    expected: str
    default: str
    choices: tuple[str, ...] = ()

    @property
    def option(self) -> str:
        return "--" + self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        return f"PROPER_{self.name.upper()}"


_FOLDER = "a folder, as a whole path or one that begins with ~/"
_FILE = "a file, as a whole path or one that begins with ~/"
_SWITCH = ("true", "false")
_ALL = (
    # Before every command.
    Setting("home", _FOLDER, "the system's folder for a program's data"),
    Setting("passphrase_file", _FILE, "none"),
    Setting("key_file", _FILE, "none"),
    Setting("unlock", "auto, keyring or ask", "auto", ("auto", "keyring", "ask")),
    Setting("threads", "a whole number from 1 to 1024", "as many as help a base of that size"),
    # Of several commands.
    Setting("max_memory", "a number of GiB above 0", "no limit"),
    Setting("base_weights", "full, 8bit or 4bit", "as when you adapted", ("full", "8bit", "4bit")),
    Setting("recompute", "true or false", "false", _SWITCH),
    Setting("max_items", "a whole number of at least 1", "20,000"),
    Setting("lenient", "true or false", "false", _SWITCH),
    Setting("date_order", "dmy or mdy", "as the history tells it", ("dmy", "mdy")),
)
SETTINGS = {one.name: one for one in _ALL}
PATHS = ("home", "passphrase_file", "key_file")
# They say together how the vault opens: whoever names one says what the others are.
KEYS = ("passphrase_file", "key_file", "unlock")
# Names under which a secret itself may be meant.
SECRETS = ("passphrase", "password", "passwd", "pin", "secret", "key", "token")
