"""Rival: Hugging Face's Trainer over a PEFT model, one user after another.

A new Trainer a user, as scripts that personalize one user at a time make it; making it is set-up,
`train()` is training. The Trainer's own loss takes logits at all positions and averages over
answer tokens, so with one sample a step it computes what the loops compute.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from benchmarks.measure import Stopwatch
from benchmarks.rival_loops import copied, load_factors, optimizer_of, peft_factors, with_peft
from benchmarks.world import (
    LEARNING_RATE,
    Factors,
    World,
    own_steps,
    start_of,
    step_count,
)
from proper_model.base.sites import find_sites
from proper_model.kernels.packing import Encoded


class HfTrainer:
    """The Trainer with everything switched off that is not training."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.widths = world.widths()
        paths = [site.path for site in find_sites(world.base)]
        self.model, _ = with_peft(world)
        self.factors = peft_factors(self.model, paths)
        self.trained: dict[int, Factors] = {}

    def round(self, clock: Stopwatch) -> None:
        """Train all users, one after another."""
        with tempfile.TemporaryDirectory() as folder:
            for number, user in enumerate(self.world.users):
                with clock.setup(), warnings.catch_warnings():
                    # The Trainer speaks of its own future.
                    warnings.simplefilter("ignore", FutureWarning)
                    load_factors(self.factors, start_of(self.widths, self.world, user))
                    ordered = [s for step in own_steps(user, self.world.settings) for s in step]
                    steps = step_count(user, self.world.settings)
                    trainer = self._trainer(folder, ordered, steps)
                with clock.train(), warnings.catch_warnings():
                    warnings.simplefilter("ignore", FutureWarning)
                    trainer.train()
                if self.world.keep:
                    self.trained[number] = copied(self.factors)

    def _trainer(self, folder: str, ordered: Sequence[Encoded], steps: int) -> Any:
        from transformers import PrinterCallback, Trainer, TrainingArguments

        settings = self.world.settings
        arguments = TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=settings.batch_size,
            num_train_epochs=1,  # `ordered` holds all epochs
            max_grad_norm=settings.max_grad_norm,
            learning_rate=LEARNING_RATE,
            train_sampling_strategy="sequential",  # samples are in the engine's order already
            use_cpu=self.world.device.type == "cpu",
            save_strategy="no",
            logging_strategy="no",
            eval_strategy="no",
            report_to=[],
            disable_tqdm=True,
            remove_unused_columns=False,
            dataloader_pin_memory=False,
        )
        trainer = Trainer(
            model=self.model,
            args=arguments,
            train_dataset=_Samples(ordered),
            data_collator=self._collate,
            # The same optimizer as the loop's: what differs is the Trainer.
            optimizers=optimizer_of(self.world, self.factors, steps),
        )
        trainer.remove_callback(PrinterCallback)  # stdout is data
        return trainer

    def _collate(self, samples: Sequence[Encoded]) -> dict[str, Tensor]:
        batch = self.world.encoder.padded(samples, [0] * len(samples))
        return {
            "input_ids": batch.input_ids,
            "attention_mask": batch.attention_mask,
            "position_ids": batch.position_ids,
            "labels": batch.labels,
        }


class _Samples:
    """What a DataLoader asks of a data set."""

    def __init__(self, samples: Sequence[Encoded]) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Encoded:
        return self.samples[index]
