"""LoRAMoE adapters of moe-peft 2.0.2, trained side by side; runs in the environment of `make peer`.

Reads a workload as a line of JSON (`rival_peer` writes it), builds everything, and answers every further
line with the seconds of a round. Everything is moe-peft's own: model, passes, losses,
optimizer and schedule. In its favour nothing is recomputed in the backward pass, which its trainer does,
nothing is clipped, and no dropout is drawn where the workload has none.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

SITES = ("gate_proj", "up_proj", "down_proj")
IGNORED = -100  # a label without loss
PR_SET_PDEATHSIG = 1  # prctl(2): what this process gets when the one that started it has gone


class Peer:
    """One model with an adapter a user: experts and router of its own each."""

    def __init__(self, work: dict[str, Any]) -> None:
        import torch
        from moe_peft import LLMModel, adapter_factory
        from moe_peft.models import from_pretrained
        from transformers import LlamaConfig, LlamaForCausalLM

        torch.set_num_threads(work["threads"])
        torch.manual_seed(work["seed"])
        base = LlamaForCausalLM(LlamaConfig(**work["base"])).eval()
        self.work, self.names = work, [f"user{number}" for number in range(len(work["samples"]))]
        self.model = LLMModel(from_pretrained(base, attn_impl="eager", device="cpu"))
        for name in self.names:
            config = adapter_factory(
                "LORAMOE",
                name,
                num_experts=work["experts"],
                r=work["rank"],
                lora_alpha=work["alpha"],
                lora_dropout=work["dropout"] or 0.1,  # it refuses none: see below
                target_modules=list(SITES),
                task_name="casual",
            )
            self.model.init_adapter(config)
        layers = [layer.mlp_.state_dict() for layer in self.model.model_.layers_]
        sites = [site for one in layers for site in one.values()]
        self.loras = [lora for site in sites for lora in site.loras_.values()]
        for lora in self.loras:
            lora.dropout_.p = work["dropout"]
        self.trainers: list[Any] = []

    def set_up(self) -> None:
        """New adapters and optimizers."""
        from moe_peft import TrainConfig

        for lora in self.loras:
            lora.reset_parameters()
        self.trainers = []
        for name, samples in zip(self.names, self.work["samples"], strict=True):
            trainer = TrainConfig(
                adapter_name=name,
                num_epochs=1,
                batch_size=self.work["batch"],
                micro_batch_size=self.work["batch"],
                optimizer_type="adamw",
                learning_rate=self.work["learning_rate"],
                weight_decay=self.work["weight_decay"],
                scheduler_type="linear",
            )
            trainer.prepare(self.model.get_adapter_weight_dict(name))
            trainer.prepare_lr_scheduler(samples)
            self.trainers.append(trainer)

    def train(self) -> None:
        """Every step of all users: its passes, then a step of everybody who was in them."""
        for step in self.work["steps"]:
            for rows in step:
                self._loss(rows).backward()
            for slot in sorted({slot for rows in step for slot, *_ in rows}):
                self.trainers[slot].step()

    def _loss(self, rows: list[tuple[int, list[int], int, float]]) -> Any:
        """Rows (slot, tokens, tokens of the prompt, share in the slot's loss), those of a slot together."""
        from moe_peft import LLMBatchConfig, LLMModelInput

        width = max(len(tokens) for _, tokens, _, _ in rows)
        configs: list[Any] = []
        shares: list[float] = []
        for number, (slot, _, _, share) in enumerate(rows):
            if configs and configs[-1].adapter_name_ == self.names[slot]:
                configs[-1].batch_end_idx_, shares[-1] = number + 1, shares[-1] + share
            else:
                configs.append(LLMBatchConfig(self.names[slot], number, number + 1))
                shares.append(share)

        def padded(one: Callable[[list[int], int], list[int]], fill: int) -> list[list[int]]:
            made = [one(tokens, prompt) for _, tokens, prompt, _ in rows]
            return [row + [fill] * (width - len(row)) for row in made]

        outputs = self.model.forward(
            LLMModelInput(
                batch_configs_=configs,
                batch_tokens_=padded(lambda tokens, _: tokens, 0),
                batch_labels_=padded(
                    lambda tokens, prompt: [IGNORED] * prompt + tokens[prompt:], IGNORED
                ),
                batch_masks_=padded(lambda tokens, _: [1] * len(tokens), 0),
                output_router_logits_=False,
            )
        )
        return sum(share * output.loss for share, output in zip(shares, outputs, strict=True))


def timed(act: Callable[[], None]) -> tuple[float, float]:
    """Wall and CPU seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    act()
    return time.perf_counter() - wall, time.process_time() - cpu


def main() -> None:
    """Answer until nobody asks any more; the first answer says that everything is built."""
    with contextlib.suppress(OSError, AttributeError):  # where the system is another
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # also in the middle of a round
    with os.fdopen(os.dup(1), "w", buffering=1) as answers:
        os.dup2(2, 1)  # what libraries print is no answer

        def say(**facts: object) -> None:
            answers.write(json.dumps(facts) + "\n")

        try:
            peer = Peer(json.loads(sys.stdin.readline()))
            say()
            for _ in sys.stdin:
                (setup_wall, setup_cpu), (wall, cpu) = timed(peer.set_up), timed(peer.train)
                say(wall_s=wall, cpu_s=cpu, setup_wall_s=setup_wall, setup_cpu_s=setup_cpu)
        except Exception as error:  # noqa: BLE001 - told to the parent, whatever it is
            say(cause=f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
