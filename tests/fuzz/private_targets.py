"""What a person keeps: vault, backup, the document in both, and `proper import`."""

from __future__ import annotations

import contextlib
import io
import shutil
from datetime import UTC, datetime
from pathlib import Path
from random import Random

import torch

from client import cli
from client.home import Home
from client.person import state as personal_state
from client.person.state import PersonalState, TaskState
from client.person.state_check import check_state
from client.releases.store import installed
from client.terminal.command_line import Session
from client.vault import backup
from client.vault.damage import look_at
from client.vault.keys_document import KEYS_FILE
from client.vault.opening import KeyFile, Passphrase, Secret, open_vault
from client.vault.passphrases import check_new, read_passphrase
from proper_model.errors import ProperError
from proper_model.tasks.records import HistoryItem
from proper_model.tasks.task import load_task
from tests.age_files import seal
from tests.exports import noisy_release, user_tensors
from tests.fuzz.harness import CANARY, Files, cause_of
from tests.fuzz.mutators import spoil_bytes, spoil_json, spoil_tensors
from tests.fuzz.release_targets import publish_sample
from tests.vault_mutations import good_vaults, mutated, mutated_json, mutated_vaults
from tests.vault_samples import BUNDLE, WORD, make_vault, put_key_file, tree, write_files

CREATED = datetime(2026, 3, 1, tzinfo=UTC)
PASSPHRASE = "a passphrase, not a short one"
FIRST, SECOND = "00000001.vault", "00000002.vault"


class VaultTarget:
    """Altered, exchanged, missing and foreign files; opened with a key file or a passphrase.

    Half of the cases are `vault_mutations`'s, of vaults with one generation, where every change of a
    byte must be refused. The others have two, so that an older one may be read, with a warning.
    """

    name = "vault"

    def __init__(self, folder: Path) -> None:
        self.home = Home(folder)
        self.key = put_key_file(folder / "key", good_vaults()[1])
        secrets: tuple[Secret, ...] = (self.key, WORD)
        make_vault(folder / "own", b"older", b"newest", secrets=secrets)
        make_vault(folder / "theirs", b"other", b"others", secrets=secrets, seed="b")
        self.own, self.theirs = tree(folder / "own"), tree(folder / "theirs")

    def sound(self) -> Files:
        return {**self.own, "secret": b"word"}

    def case(self, rng: Random) -> Files:
        if rng.random() < 0.5:
            (files,) = mutated_vaults(rng, 1)
            return {**files, "secret": b"alone"}
        changed = dict(self.own)
        name = rng.choice((KEYS_FILE, KEYS_FILE, SECOND, SECOND, FIRST))
        match rng.randrange(10):
            case 0:
                changed[name] = self.theirs[name]
            case 1:
                del changed[name]
            case 2:
                changed[name] = changed[rng.choice(list(changed))]
            case 3:
                third = rng.choice((*self.theirs.values(), changed[SECOND], b""))
                changed["00000003.vault"] = third
            case 4 | 5 if name == KEYS_FILE:
                changed[name] = mutated_json(changed[name], rng)
            case _:
                other = rng.choice((self.theirs[name], self.own[SECOND]))
                changed[name] = mutated(changed[name], rng, other)
        return {**changed, "secret": rng.choice((b"key", b"key", b"word"))}

    def judge(self, files: Files) -> str | None:
        shutil.rmtree(self.home.vault, ignore_errors=True)
        stored = {name: data for name, data in files.items() if name != "secret"}
        write_files(self.home.vault, stored)
        with contextlib.suppress(ProperError):
            look_at(self.home)  # what `status` shows without a secret
        secret: KeyFile | Passphrase = WORD if files["secret"] == b"word" else self.key
        vault = open_vault(self.home.vault, secret)
        content = vault.read()
        if files["secret"] == b"alone":
            return "read a mutated vault"
        if stored.get(KEYS_FILE) != self.own[KEYS_FILE]:
            return "opened with keys.json altered"
        payload = None if content is None else content.payload
        newer = [name for name in stored if name.endswith(".vault") and name > FIRST]
        if payload == b"newest":
            return None if stored[SECOND] == self.own[SECOND] else "read an altered generation"
        if payload == b"older":
            # An older copy of a whole vault cannot be told from the newest; a damaged newest can.
            quiet = newer and not vault.warnings
            return "took the older generation without a word" if quiet else None
        return "read what nobody wrote"


class PassphraseTarget:
    """A file with a passphrase, as editors write it: what is taken is its first line, and opens."""

    name = "passphrase"
    texts = (
        *("correct horse battery", "pässword ώ two", "\u200b"),
        *("a" * 100, "aA1!" * 18, "1qaz2wsx"),
    )
    codings = ("utf-8", "utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32", "latin-1")

    def __init__(self, folder: Path) -> None:
        self.path = folder / "word"
        self.path.touch(mode=0o600)

    def sound(self) -> Files:
        return {"word": f"{CANARY} {self.texts[0]}\r\n".encode()}

    def case(self, rng: Random) -> Files:
        line = f"{CANARY} {rng.choice(self.texts)}"
        text = line + rng.choice(("", "\n", "\r\n", "\r", "\nnot this", "\0", " \n"))
        data = text.encode(rng.choice(self.codings), "replace")
        if rng.random() < 0.7:
            data = spoil_bytes(data, rng)
        return {"word": data, "weak": b"1"} if rng.random() < 0.3 else {"word": data}

    def judge(self, files: Files) -> str | None:
        self.path.write_bytes(files["word"])
        secret = read_passphrase(self.path)
        told = io.StringIO()
        with contextlib.redirect_stderr(told), contextlib.redirect_stdout(told):
            check_new(secret, weak="weak" in files)
        if CANARY in told.getvalue():
            return "says the passphrase"
        wide = files["word"].startswith((b"\xff\xfe", b"\xfe\xff"))
        text = files["word"].decode("utf-16" if wide else "utf-8-sig")
        line = io.StringIO(text, newline=None).readline().removesuffix("\n")
        return None if secret.text == line else "took another passphrase than the first line"


def sample_state(bundle_id: str = BUNDLE) -> PersonalState:
    """A person of two tasks, with tensors that fit `noisy_release`."""
    tensors = user_tensors(noisy_release())
    task = load_task("LaMP_3", template="short")
    items = tuple(
        HistoryItem(
            f"i{n}",
            {"text": f"{CANARY} w{n} w{n + 1}", "score": str(n % 5 + 1)},
            f"2020-01-0{n + 1}",
        )
        for n in range(5)
    )
    adapter = {name: tensor for name, tensor in tensors.items() if name.startswith("lora.")}
    state = TaskState(
        toml=task.toml_text,
        template="short",
        items=items,
        adapter=adapter,
        report={"epochs": 3, "loss": 0.5},
        adapted_at="2026-01-01T00:00:00Z",
    )
    return PersonalState(
        bundle_id=bundle_id,
        bundle_version=1,
        seed=7,
        embedding=tensors["embedding"],
        tasks={"LaMP_3": state},
    )


def spoil_document(data: bytes, rng: Random) -> bytes:
    """A person's document altered in its head, its tensors or anywhere."""
    start = len(personal_state.MAGIC) + 4
    length = int.from_bytes(data[start - 4 : start], "big")
    head, tensors = data[start : start + length], data[start + length :]
    match rng.randrange(5):
        case 0:
            return spoil_bytes(data, rng)
        case 1 | 2:
            head = spoil_json(head, rng)
        case _:
            tensors = spoil_tensors(tensors, rng)
    return data[: start - 4] + len(head).to_bytes(4, "big") + head + tensors


class DocumentTarget:
    """The document inside the vault: what is taken is finite and stays what it is when rewritten."""

    name = "document"

    def __init__(self, folder: Path) -> None:
        del folder
        self.good = personal_state.encode(sample_state())

    def sound(self) -> Files:
        return {"document": self.good}

    def case(self, rng: Random) -> Files:
        return {"document": spoil_document(self.good, rng)}

    def judge(self, files: Files) -> str | None:
        state = personal_state.decode(files["document"])
        check_state(state)
        tensors = [t for task in state.tasks.values() for t in task.adapter.values()]
        tensors += [] if state.embedding is None else [state.embedding]
        if not all(bool(torch.isfinite(tensor).all()) for tensor in tensors):
            return "took tensors that are not finite"
        written = personal_state.encode(state)
        if personal_state.encode(personal_state.decode(written)) != written:
            return "is another document after it was written"
        return None


class BackupTarget:
    """The age file altered from outside, and a sealed one with altered content."""

    name = "backup"

    def __init__(self, folder: Path) -> None:
        self.path = folder / "backup.age"
        document = personal_state.encode(sample_state())
        self.content = backup.encode(backup.Backup(document, CREATED, BUNDLE))
        self.good = seal(self.content, PASSPHRASE)

    def sound(self) -> Files:
        return {"backup.age": seal(self.content, PASSPHRASE), "content": self.content}

    def case(self, rng: Random) -> Files:
        if rng.random() < 0.5:
            return {"backup.age": mutated(self.good, rng, self.content)}
        start = len(backup.MAGIC) + 4
        length = int.from_bytes(self.content[start - 4 : start], "big")
        head = mutated_json(self.content[start : start + length], rng)
        rest = self.content[start + length :]
        content = backup.MAGIC + len(head).to_bytes(4, "big") + head + rest
        if rng.random() < 0.3:
            content = mutated(self.content, rng)
        return {"backup.age": seal(content, PASSPHRASE), "content": content}

    def judge(self, files: Files) -> str | None:
        self.path.write_bytes(files["backup.age"])
        opened = backup.open_backup(self.path, PASSPHRASE)
        if "content" not in files:
            return "opened an altered age file"
        same = backup.encode(opened) == files["content"]
        return None if same else "read another content than was sealed"


class ImportTarget:
    """`proper import` of a sealed backup over its release; then the commands that read it."""

    name = "import"

    def __init__(self, folder: Path) -> None:
        self.folder, self.key = folder, put_key_file(folder / "key", bytes(range(64)))
        self.home, self.fresh = folder / "home", folder / "fresh"
        run_proper(self.fresh, self.key, "bundle", "add", str(publish_sample(folder / "release")))
        bundle = installed(self.fresh)
        assert bundle is not None
        self.bundle_id = bundle.bundle_id
        self.good = personal_state.encode(sample_state(self.bundle_id))
        self.word = folder / "word"
        self.word.touch(mode=0o600)
        self.word.write_text(PASSPHRASE + "\n")

    def sound(self) -> Files:
        return {"document": self.good}

    def case(self, rng: Random) -> Files:
        return {"document": spoil_document(self.good, rng)}

    def judge(self, files: Files) -> str | None:
        shutil.rmtree(self.home, ignore_errors=True)
        shutil.copytree(self.fresh, self.home)
        content = backup.encode(backup.Backup(files["document"], CREATED, BUNDLE))
        path = self.folder / "import.age"
        path.write_bytes(seal(content, PASSPHRASE))
        run_proper(
            self.home, self.key, "import", str(path), "--backup-passphrase-file", str(self.word)
        )
        if personal_state.decode(files["document"]).bundle_id != self.bundle_id:
            return None  # of a release that is not here, which the commands say
        for words in (("status",), ("inspect",), ("inspect", "--items"), ("inspect", "--json")):
            try:
                run_proper(self.home, self.key, *words)
            except ProperError as error:
                if type(error).__name__ not in ("NotAdaptedError", "NotInstalledError"):
                    return f"imported, then {words[0]}: {cause_of(error)}"
        return None


def run_proper(home: Path, key: KeyFile, *words: str) -> None:
    """A command of `proper` in this process, whose errors come out as they are."""
    options = ["--home", str(home), "--key-file", str(key.path)]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        cli.app(args=[*options, *words], obj=Session(), prog_name="proper", standalone_mode=False)
