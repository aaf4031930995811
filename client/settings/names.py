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
    """One setting. `name` is that of the option's parameter, too.

    Attributes:
        expected: what its value may be, for errors.
        default: what holds where nothing is said.
    """

    name: str
    expected: str
    default: str
    about: str

    @property
    def option(self) -> str:
        return "--" + self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        return f"PROPER_{self.name.upper()}"


_EVERYWHERE = (
    Setting(
        "home",
        "a folder, as a whole path or one that begins with ~/",
        "the system's folder for a program's data",
        "Folder for everything that is kept.",
    ),
    Setting(
        "passphrase_file",
        "a file, as a whole path or one that begins with ~/",
        "none",
        "A file whose first line is the passphrase.",
    ),
    Setting(
        "key_file",
        "a file, as a whole path or one that begins with ~/",
        "none",
        "A key file of the vault.",
    ),
    Setting(
        "unlock",
        "auto, keyring or ask",
        "auto",
        "Where the vault's key comes from when no file is named: auto takes the keyring where it has "
        "one and asks otherwise.",
    ),
    Setting(
        "threads",
        "a whole number from 1 to 1024",
        "as many as help a base of that size",
        "How many threads compute.",
    ),
)
_OF_COMMANDS = (
    Setting(
        "max_memory",
        "a number of GiB above 0",
        "no limit",
        "What the whole program may take of main memory, in GiB.",
    ),
    Setting(
        "base_weights",
        "full, 8bit or 4bit",
        "as when you adapted",
        "How the frozen base is held.",
    ),
    Setting(
        "recompute",
        "true or false",
        "false",
        "Recompute activations: less memory, more time.",
    ),
    Setting(
        "max_items",
        "a whole number of at least 1",
        "20,000",
        "Use only the newest items of a history.",
    ),
    Setting(
        "lenient",
        "true or false",
        "false",
        "Leave faulty items of a history out instead of stopping.",
    ),
    Setting(
        "date_order",
        "dmy or mdy",
        "as the history tells it",
        "How dates such as 03/04/2024 are read.",
    ),
)
SETTINGS = {one.name: one for one in (*_EVERYWHERE, *_OF_COMMANDS)}
PATHS = ("home", "passphrase_file", "key_file")
# They say together how the vault opens: whoever names one says what the others are.
KEYS = ("passphrase_file", "key_file", "unlock")
# Names under which a secret itself may be meant.
SECRETS = ("passphrase", "password", "passwd", "pin", "secret", "key", "token")
