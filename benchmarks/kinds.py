"""What files say of their form, and what contenders are called: needs neither torch nor pydantic."""

from __future__ import annotations

SCHEMA = 2  # of what is written; 1 is read
KINDS = {
    "naive-moe": "naive LoRA-MoE loop a user",
    "stacked-loop": "loop a user, all experts as one factor pair",
    "peft-loop": "PEFT loop a user",
    "peft-mixed-eval": "PEFT adapter_names, gradients in eval mode",
    "vmap": "vmap over stacked user LoRAs",
    "ours": "engine without experts",
    "ours-moe": "engine with experts and router",
    "limit": "the engine's frozen base alone, forward and backward",
}
