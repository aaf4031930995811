"""What an exported folder says about itself: what it is, what it needs, how it is loaded.

It names the public base and the bundle, never a person or a place on this machine: folders are
written as BUNDLE, ADAPTER and MODEL, for the reader to fill in.
"""

from __future__ import annotations

from proper_model.artifact import Release
from proper_model.config import BaseWeights
from proper_model.peft_export import SERVED_RANKS, PeftAdapter
from proper_model.recipe import BaseSource
from proper_model.user_fold import FoldReport

PRIVATE = """\
**Private.** These weights were trained on one person's history, and parts of it can be recovered
from them: whoever gets this folder has to be taken for somebody who got the history. Keep it where
you would keep the history itself, and do not publish it.
"""


def peft_readme(
    release: Release,
    adapter: PeftAdapter,
    report: FoldReport | None,
    *,
    bundle_id: str,
    base: BaseSource | None,
) -> str:
    """README.md of an adapter folder."""
    if base is None:
        needs = (
            f"The folder `base` of the bundle `{bundle_id}`,\nwritten BUNDLE below, and its folder "
            "`tokenizer`. It holds the population's part already, so the\nadapter fits no other "
            "base."
        )
        model, tokenizer, revision = "BUNDLE/base", "BUNDLE/tokenizer", ""
        serve = "vllm serve BUNDLE/base --tokenizer BUNDLE/tokenizer"
    else:
        needs = (
            f"`{base.name}` at revision `{base.revision}`,\nthe public base of the bundle "
            f"`{bundle_id}`.\nThe population's part is in this adapter."
        )
        model = tokenizer = base.name
        revision = f', revision="{base.revision}"'
        serve = f"vllm serve {base.name} --revision {base.revision}"
    load = f"""\
```python
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

base = AutoModelForCausalLM.from_pretrained("{model}"{revision})
tokenizer = AutoTokenizer.from_pretrained("{tokenizer}"{revision})
model = PeftModel.from_pretrained(base, "ADAPTER")
```
"""
    if adapter.rank in SERVED_RANKS:
        served = f"""\
```bash
{serve} --enable-lora --max-lora-rank {adapter.rank} --lora-modules personal=ADAPTER
```

Ask it for the model `personal`. Its rank of {adapter.natural_rank} was filled up with zeros to {adapter.rank}, which is a
rank vLLM takes; the scale is 1.
"""
    else:
        served = f"Its rank of {adapter.rank} is more than vLLM takes.\n"
    return "\n".join(
        [
            "# A personal LoRA adapter\n",
            PRIVATE,
            f"## What it needs\n\n{needs}\n",
            f"## PEFT\n\n{load}\nADAPTER is this folder.\n",
            f"## vLLM\n\n{served}",
            f"## What it is\n\n{_content(release, report, release.settings.base_weights)}",
        ]
    )


def merged_readme(
    release: Release, report: FoldReport | None, trained_over: BaseWeights, *, bundle_id: str
) -> str:
    """README.md of a folder with a merged model."""
    return "\n".join(
        [
            "# A personal language model\n",
            PRIVATE,
            f"""\
## How to load it

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("MODEL")
tokenizer = AutoTokenizer.from_pretrained("MODEL")
```

```bash
vllm serve MODEL
```

MODEL is this folder. It needs no other base; it was made from the bundle
`{bundle_id}`.
""",
            f"## What it is\n\n{_content(release, report, trained_over)}",
        ]
    )


def _content(release: Release, report: FoldReport | None, trained_over: BaseWeights) -> str:
    """Task, exactness, and what the base was held in for training."""
    lines = [
        f"It answers the task `{release.task.name}`; ask in the words of the bundle's `task.toml`.",
    ]
    if report is None:
        lines.append(
            "Experts and private LoRA were folded exactly: but for rounding, the answers are PROPER's."
        )
    else:
        lines.append(
            "**Approximate.** PROPER chooses experts by token; here their mean over the person's "
            "own items\nis folded in. On those items the loss of an answer token went from "
            f"{report.exact_nll:.4f} to {report.folded_nll:.4f}."
        )
    if trained_over != BaseWeights.FULL:
        lines.append(
            f"It was trained over a base held in {trained_over.value}; over the full base answers "
            "differ slightly."
        )
    return "\n".join(lines) + "\n"
