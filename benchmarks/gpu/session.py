"""One run of the command: what is measured once, then setting by setting, and the file of it all."""

from __future__ import annotations

import dataclasses
import gc
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.contenders.build import build_base, shape_of
from benchmarks.contenders.specs import Spec
from benchmarks.contenders.workload import LONGEST
from benchmarks.gpu.agreement import agreements
from benchmarks.gpu.budget import Budget
from benchmarks.gpu.document import Peaks, RaceSetting, Skipped
from benchmarks.gpu.machine import accelerator, code_version, versions
from benchmarks.gpu.peaks import measured_peaks
from benchmarks.gpu.plan import Planned
from benchmarks.gpu.race import DTYPE, Race, Say
from benchmarks.gpu.variants import REFERENCE, VARIANTS, Variant
from benchmarks.kinds import SCHEMA, Agreement
from benchmarks.measuring.processes import cause_of
from proper_model.base.loading import DTYPES
from proper_model.engine.memory import release_memory
from proper_model.errors import ConfigError
from proper_model.federation.machine import facts
from proper_model.storage.files import write_atomic

COMPARING = 0.2  # of the budget, at most, for comparing variants with the reference


def chosen_variants(names: Sequence[str]) -> dict[str, Variant]:
    """The named variants, or all. Raises ConfigError for an unknown name."""
    for name in names:
        if name not in VARIANTS:
            hint = "variants are: " + ", ".join(VARIANTS)
            raise ConfigError(f"unknown variant '{name}'", hint=hint)
    return {name: VARIANTS[name] for name in names or VARIANTS}


class Session:
    """Holds one base at a time, and writes the file whenever there is something new.

    Args:
        compiled: whether rivals are.
        commit: of the code; None: as the checkout says.
    """

    def __init__(
        self,
        out: Path,
        *,
        device: str,
        budget: Budget,
        variants: Mapping[str, Variant],
        rounds: int,
        compiled: bool,
        seed: int,
        commit: str | None,
        say: Say,
    ) -> None:
        self.out, self.budget, self.variants = out, budget, variants
        self.rounds, self.compiled, self.seed, self.say = rounds, compiled, seed, say
        self.device = torch.device(device)
        if device == "cuda":  # with its number, as a base's own device has it
            self.device = torch.device(device, torch.cuda.current_device())
        gc.freeze()  # else every release of memory looks through all that libraries hold
        self.agreement: list[Agreement] = []
        self.settings: list[RaceSetting] = []
        self.skipped: list[Skipped] = []
        self.base: tuple[str, Any] | None = None
        self.facts = {
            "schema": SCHEMA,
            "benchmark": "gpu",
            "hardware": facts(),
            "accelerator": _plain(accelerator(self.device)),
            "versions": versions(),
            "seed": seed,
            "commit": commit or code_version(),
            "device": device,
            "dtype": DTYPE,
            "variants": {name: one.what for name, one in variants.items()},
            "seconds": budget.seconds,
        }
        self.peaks: Peaks = measured_peaks(self.device, DTYPES[DTYPE])
        flops, copied = self.peaks.flops / 1e12, self.peaks.bytes / 1e9
        self.say(f"peaks: {flops:.4g} teraflop/s in {DTYPE}, {copied:.4g} GB/s")

    def compare(self) -> None:
        """Every variant with the reference."""
        try:
            with self.budget.at_most(COMPARING * self.budget.seconds):
                for one in agreements(self.variants, self.device):
                    self.agreement.append(one)
                    found = one.cause if one.error is None else f"relative error {one.error:.2e}"
                    self.say(f"{one.variant} in {one.dtype}: {found}")
        except Exception as error:  # noqa: BLE001 - a table less, and the race goes on
            self.say(f"the reference did not train: {cause_of(error)}")
            self.agreement.append(Agreement(REFERENCE, DTYPE, None, cause_of(error)))
        release_memory(self.device)
        self.write()

    def race(self, plan: Planned) -> None:
        """Run one setting; one whose base or users do not fit is skipped with the reason."""
        size = plan.work.size
        try:
            with self.budget.at_most():
                base = self._base(size)
                race = Race(
                    plan,
                    shape_of(size),
                    base,
                    self.variants,
                    self.budget,
                    rounds=self.rounds,
                    compiled=self.compiled,
                    peak_flops=self.peaks.flops,
                    say=self.say,
                    publish=self.write,
                )
        except Exception as error:  # noqa: BLE001 - the other settings go on
            self.skip(plan, cause_of(error))
            return
        self.settings.append(race.setting)
        try:
            race.run()
        except Exception as error:  # noqa: BLE001 - the other settings go on
            self.skip(plan, f"ended by {cause_of(error)}")
        finally:
            self.write()

    def skip(self, plan: Planned, reason: str) -> None:
        """Note a setting that is not run."""
        self.say(f"skipped: {reason}")
        work = plan.work
        self.skipped.append(Skipped(work.size, work.users, work.lengths, reason))
        self.write()

    @property
    def measured(self) -> bool:
        """Whether there is a result of anybody."""
        return any(entry.rounds for setting in self.settings for entry in setting.entries)

    def write(self) -> None:
        """The file as it is now, whole or not at all."""
        document = self.facts | {
            "elapsed_s": self.budget.elapsed,
            "peaks": _plain(self.peaks),
            "agreement": [_plain(one) for one in self.agreement],
            "settings": [_plain(one) for one in self.settings],
            "skipped": [_plain(one) for one in self.skipped],
        }
        write_atomic(self.out, (json.dumps(document, indent=1) + "\n").encode())

    def _base(self, size: str) -> Any:
        """The base of a size; the one before it is gone first."""
        if self.base is None or self.base[0] != size:
            self.base = None
            release_memory(self.device)
            spec = Spec("ours-moe", dtype=DTYPE)
            made = build_base(shape_of(size), spec, self.device, seed=self.seed, longest=LONGEST)
            self.base = size, made
            self.say(f"base {size}: {sum(p.numel() for p in made.parameters()):,} weights")
        return self.base[1]


def _plain(found: Any) -> Any:
    return None if found is None else dataclasses.asdict(found)
