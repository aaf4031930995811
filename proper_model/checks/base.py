"""Is a base usable? Answered in a second or two, before anything is trained or written.

Looked at are the configuration, the modules it describes (on the meta device, without weights), the
headers of the safetensors files against their sizes, and the tokenizer; and everything that a run
does is done once with a small model of the same architecture (`trial`). What only the weights'
values could show stays for loading.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from proper_model.base.config import empty_model, is_nested, size
from proper_model.base.folder import COPY_AGAIN, base_folder, no_weights, weight_files
from proper_model.base.population_lora import check_targets
from proper_model.base.quantized import check_available
from proper_model.base.sites import find_sites
from proper_model.base.sizes import MAX_HEADER_BYTES, BaseShape, read_header, read_shape
from proper_model.base.streamed import check_language_part
from proper_model.bundle.file_names import CONFIG, INDEX, WEIGHTS
from proper_model.checks.publishable import (
    check_config,
    check_folder,
    check_saved_tokenizer,
    is_embedded,
)
from proper_model.errors import BaseModelError, ConfigError
from proper_model.settings.profile import StageSettings
from proper_model.storage.files import expanded, read_followed
from proper_model.text.tokenizer_check import check_tokenizer

HUB_TIMEOUT_S = 10.0
_HUB_ID = re.compile(r"[A-Za-z0-9_][\w.-]*(/[\w.-]+)?", re.ASCII)


@dataclass(frozen=True)
class FoundBase:
    """A base as its files describe it, without the weights. Each file is read once, when asked for.

    Attributes:
        name: as it was asked for.
        source: its folder as a path, or a hub id that can be downloaded.
        config: transformers' configuration.
    """

    name: str
    source: str
    config: Any

    @property
    def folder(self) -> Path | None:
        """Where its files lie; None for a hub id of which they are not here."""
        return Path(self.source) if Path(self.source).is_dir() else None

    @cached_property
    def model(self) -> Any:
        """The language model on the meta device. Raises BaseModelError."""
        return empty_model(self.config)

    @cached_property
    def tokenizer(self) -> Any:
        """Raises BaseModelError if it cannot be loaded."""
        return read_tokenizer(self.name, self.source)

    @cached_property
    def shape(self) -> BaseShape:
        """The numbers of its language model, every parameter once."""
        return BaseShape.of({n: tuple(p.shape) for n, p in self.model.named_parameters()})

    @cached_property
    def stored_shape(self) -> BaseShape:
        """The numbers that loading meets: as its files' headers say, where there are files."""
        with suppress(BaseModelError):
            if self.folder is not None:
                return read_shape(weight_files(self.name, self.folder))
        return self.shape

    @property
    def layers(self) -> int:
        return size(self.config, "num_hidden_layers")

    @property
    def hidden(self) -> int:
        return size(self.config, "hidden_size")

    @property
    def ffn(self) -> int:
        return size(self.config, "intermediate_size")

    @property
    def is_embedded(self) -> bool:
        return is_embedded(self.model)


def find_base(name: str) -> FoundBase:
    """The base of a folder or hub id. Raises BaseModelError if there is none, or no configuration."""
    source = locate(name)
    return FoundBase(name, source, read_config(name, source))


def check_base(name: str, settings: StageSettings, *, embedded: bool | None = None) -> FoundBase:
    """The base that `name` stands for, unless a run with `settings` could not start from it.

    `embedded`: whether a release would hold the base or refer to it; None: as its size decides.

    Raises BaseModelError naming file and next step, ConfigError for a setting that it is too small
    for or that needs a library which is not installed.
    """
    check_available(settings.base_weights)
    base = find_base(name)
    folder = base.folder
    raw = None
    if folder is not None:
        raw = read_followed(folder / CONFIG, limit_bytes=MAX_HEADER_BYTES)
    with _named(f"base '{name}', config.json"):
        check_architecture(base.config, base.model, settings)
        check_config(base.config, base.model, raw, embedded=embedded)
    if folder is not None:
        for path in weight_files(name, folder):
            check_size(name, path)
        if is_nested(base.config):
            check_language_part(name, base.model, weight_files(name, folder))
    rows = base.model.get_input_embeddings().weight.shape[0]
    check_tokenizer(f"base '{name}'", base.tokenizer, rows)
    with _named(f"base '{name}'"):
        if folder is not None:
            check_folder(folder, base.model, embedded=embedded)
        check_saved_tokenizer(base.tokenizer, rows)
    return base


@contextmanager
def _named(where: str) -> Iterator[None]:
    """What is refused, said with its place."""
    try:
        yield
    except BaseModelError as error:
        raise BaseModelError(f"{where}: {error.message}", hint=error.hint) from None


def check_architecture(config: Any, model: Any, settings: StageSettings) -> None:
    """That a run works with a base of this configuration; `model` is it on the meta device.

    Raises BaseModelError, ConfigError for a rank that it is too narrow for.
    """
    from proper_model.checks.trial import check_trial

    find_sites(model)
    check_targets(model, settings.population.targets)
    rank, width = settings.population.rank, model.get_input_embeddings().weight.shape[1]
    if rank > width:
        raise ConfigError(
            f"population.rank is {rank}, above the width {width} of the base",
            hint="choose a rank well below the width, for example 8",
        )
    check_trial(config, settings)


def locate(name: str) -> str:
    """The folder of a base as a path, or a hub id that can be downloaded.

    A hub id whose configuration and weights are in the local cache becomes the folder there, so
    that no network is needed. Raises BaseModelError if it is none of these.
    """
    path = expanded(name)
    if name.strip() and path.is_dir():
        return str(path)
    if path.exists() and name.strip():
        raise BaseModelError(
            f"base '{name}' is a file, expected a folder",
            hint="give the folder with config.json, *.safetensors and a tokenizer",
        )
    if _HUB_ID.fullmatch(name) is None:
        raise BaseModelError(
            f"base '{name}': no such folder",
            hint="give a folder with config.json, *.safetensors and a tokenizer, or a hub id such "
            "as org/model",
        )
    try:
        cached = base_folder(name)
        if (cached / CONFIG).is_file() and list(weight_files(name, cached)):
            return str(cached)
    except BaseModelError:
        pass
    _ask_hub(name)
    return name


def _ask_hub(name: str) -> None:
    """One request, where loading would repeat its requests for most of a minute."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        info = HfApi().model_info(name, timeout=HUB_TIMEOUT_S)
    except RepositoryNotFoundError:
        raise BaseModelError(
            f"base '{name}' is neither a local folder nor a model that the hub shows you",
            hint="check the spelling; for a gated or private model log in first: hf auth login",
        ) from None
    except Exception as error:  # noqa: BLE001 - the hub's own client has errors of several kinds
        raise BaseModelError(
            f"base '{name}' is neither a local folder nor complete in the hub's local cache, and "
            f"the hub cannot be reached ({type(error).__name__})",
            hint=f"check the path, or download it where there is a network: hf download {name}",
        ) from None
    files = {sibling.rfilename for sibling in info.siblings or ()}
    if files and not files & {WEIGHTS, INDEX}:
        raise no_weights(name)


def read_config(name: str, source: str) -> Any:
    """The configuration of a base. Raises BaseModelError."""
    from transformers import AutoConfig

    if Path(source).is_dir() and not (Path(source) / CONFIG).is_file():
        raise BaseModelError(
            f"base '{name}': the folder has no config.json",
            hint="give a folder with config.json, *.safetensors and a tokenizer",
        )
    try:
        return AutoConfig.from_pretrained(source, trust_remote_code=False)
    except Exception as error:
        raise BaseModelError(
            f"base '{name}': config.json cannot be read as a model's configuration "
            f"({type(error).__name__})",
            hint="copy or download it again; a gated model needs `hf auth login` first",
        ) from error


def read_tokenizer(name: str, source: str) -> Any:
    """The tokenizer of a base. Raises BaseModelError."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    except Exception as error:
        raise BaseModelError(
            f"base '{name}': the tokenizer cannot be loaded ({type(error).__name__})",
            hint="put tokenizer.json and tokenizer_config.json of the model into its folder",
        ) from error


def check_size(name: str, path: Path) -> None:
    """Raise BaseModelError unless a safetensors file is as long as its header says."""
    size = path.stat().st_size
    with _named(f"base '{name}'"):
        header, begin = read_header(path)
    expected = begin + max((t["data_offsets"][1] for t in header.values()), default=0)
    if size != expected:
        raise BaseModelError(
            f"base '{name}': {path.name} has {size} bytes, its header says {expected}",
            hint=COPY_AGAIN,
        )
