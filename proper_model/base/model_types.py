"""Which bases a release may be made over: dense text decoders that this engine runs unchanged.

The names are `model_type` in config.json. Each has separate gate, up and down linears, keeps no
state across the tokens of a packed row, and attends without masks or sinks of its own. transformers
has the code for them; a release can ask for no other.
"""

from __future__ import annotations

MODEL_TYPES = frozenset(
    {
        "cohere", "cohere2", "cwm", "ernie4_5", "exaone4", "gemma", "gemma2", "gemma3_text",
        "granite", "helium", "hunyuan_v1_dense", "hyperclovax", "llama", "ministral", "ministral3",
        "mistral", "olmo", "olmo2", "olmo3", "qwen2", "qwen3", "seed_oss", "smollm3", "vaultgemma",
    }
)  # fmt: skip

# Checkpoints that read images too, and the type of the language model in them, which alone is used.
# A release may refer to one; an embedded base is the language model by itself.
NESTED_TYPES = {"gemma3": "gemma3_text"}

# Larger bases are referred to: every node host would otherwise hold a copy.
LARGEST_EMBEDDED_PARAMETERS = 500_000_000
