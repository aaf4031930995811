"""Loads exports with transformers 4 and says what it computes, as JSON; a process of its own.

Its arguments: the folder of an installation of transformers 4, token ids as JSON, merged exports.
"""

from __future__ import annotations

import json
import sys
from typing import Any

site, token_ids, *folders = sys.argv[1:]
sys.path.insert(0, site)

import torch  # noqa: E402
import transformers  # noqa: E402

assert transformers.__version__.startswith("4."), transformers.__version__


@torch.no_grad()
def read(folder: str) -> dict[str, Any]:
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, torch_dtype="auto").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    words = tokenizer("w3 w5", return_tensors="pt")
    return {
        "dtype": str(model.dtype),
        "logits": model(input_ids=torch.tensor([json.loads(token_ids)])).logits[0].tolist(),
        "tokens": tokenizer("w3 <tag> w5")["input_ids"],
        "special": tokenizer.all_special_tokens,
        "chat": tokenizer.chat_template,
        "padding": tokenizer.padding_side,
        "generated": len(model.generate(**words, max_new_tokens=2)[0]),
    }


sys.stdout.write(json.dumps([read(folder) for folder in folders]) + "\n")
