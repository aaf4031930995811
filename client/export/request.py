"""What is to be exported, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from proper_model.errors import ExportError
from proper_model.export import FoldReport, UserFold, fold_release
from proper_model.kernels import Encoded
from proper_model.model import ALONE
from proper_model.release.contents import Release
from proper_model.release.recipe import BaseSource
from proper_model.settings import BaseWeights
from proper_model.tasks import Task


@dataclass(frozen=True)
class BaseBeside:
    """The base that an adapter applies to, to be written beside it.

    Attributes:
        model: as it was loaded, before any population LoRA unless the release embeds it merged.
        dtype: that its weights are stored in.
    """

    model: Any
    tokenizer: Any
    dtype: torch.dtype


@dataclass(frozen=True)
class Request:
    """One user's part of a release, for another program.

    Attributes:
        tensors: the user's `embedding` and `lora.<site>.A|B`.
        base: the public base that the release refers to; None if the bundle embeds its base, and
            where a whole model is written.
        beside: the base itself, to be written beside an adapter.
        dtype: what a whole model's weights are stored in; None: the one that it is held in.
        trained_over: how the base was held when the adapter was trained; None: as it is held now.
        approximate, samples, share: see `fold_release`.
        asked: the task as it was trained, with own items before questions or not; None: the release's.
    """

    release: Release
    tensors: Mapping[str, Tensor]
    bundle_id: str
    base: BaseSource | None = None
    beside: BaseBeside | None = None
    dtype: torch.dtype | None = None
    trained_over: BaseWeights | None = None
    approximate: bool = False
    samples: Sequence[Encoded] = ()
    asked: Task | None = None
    share: tuple[float, float] = ALONE

    @property
    def task(self) -> Task:
        """What the exported model answers."""
        return self.release.task if self.asked is None else self.asked

    def check_base(self) -> None:
        """Raise ExportError unless `base` says of the release's base what the release does."""
        if (self.base is None) == bool(self.release.population):
            has = "refers to a public base" if self.release.population else "embeds its base"
            raise ExportError(
                f"the release {has}, and the export was told otherwise",
                hint="export from the bundle as it is installed",
            )

    def fold(self) -> UserFold:
        """The user's stage 3 as factors. Raises ExportError if the preset does not fold."""
        return fold_release(
            self.release,
            self.tensors,
            approximate=self.approximate,
            samples=self.samples,
            share=self.share,
        )


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        size_bytes: of all files together.
        report: what the export loses; None where nothing is lost.
        rank, natural_rank: of an adapter, with and without the zeros that fill it up.
    """

    size_bytes: int
    report: FoldReport | None
    rank: int | None = None
    natural_rank: int | None = None
