"""The README of an exported folder: what it is, what it needs, how it is loaded.

It names the public base and the bundle, never a person or a place on this machine: folders are
written as BUNDLE, ADAPTER and MODEL, for the reader to fill in. Texts for llama.cpp and MLX are in
`runtimes_readme`.
"""

from __future__ import annotations

import importlib.metadata
import json
from dataclasses import dataclass

import torch

from client.export.request import Request
from proper_model.export import SERVED_RANKS, FoldReport, PeftAdapter
from proper_model.settings import BaseWeights
from proper_model.tasks import ALL, Task, counted

PRIVATE = """\
**Private.** These weights were trained on one person's history, and parts of it can be recovered
from them: whoever gets this folder has to be taken for somebody who got the history. Keep it where
you would keep the history itself, and do not publish it.
"""
BUNDLE_PLACE = (
    'BUNDLE is the folder `"$(proper path)/bundles/{bundle_id}"` of a machine that has the release.'
)


@dataclass(frozen=True)
class BasePlace:
    """Where the base of an adapter is, in the words of a README.

    Attributes:
        needs: what the adapter applies to, a paragraph.
        model, tokenizer: what loaders take.
        revision: of a hub id, else None.
    """

    needs: str
    model: str
    tokenizer: str
    revision: str | None = None


def base_place(request: Request, *, beside: bool) -> BasePlace:
    """Where the base lies: beside the adapter, on the hub, or in the bundle."""
    base, bundle_id = request.base, request.bundle_id
    population = (
        "It holds the population's part already, so the\nadapter fits no other base."
        if base is None
        else "The population's part is in the adapter."
    )
    if beside:
        whose = "the bundle's own base" if base is None else f"`{base.name}`"
        needs = f"Nothing else: its base, {whose}, is in the folder `base` here.\n{population}"
        return BasePlace(needs, "ADAPTER/base", "ADAPTER/base")
    if base is None:
        needs = (
            f"The folder `base` of the bundle `{bundle_id}`,\nand its folder `tokenizer`. "
            f"{population}\n\n{BUNDLE_PLACE.format(bundle_id=bundle_id)}\n"
            "`proper export --with-base` writes the base beside the adapter instead."
        )
        return BasePlace(needs, "BUNDLE/base", "BUNDLE/tokenizer")
    needs = (
        f"`{base.name}` at revision `{base.revision}`,\nthe public base of the bundle "
        f"`{bundle_id}`.\n{population}"
    )
    return BasePlace(needs, base.name, base.name, base.revision)


def peft_readme(request: Request, adapter: PeftAdapter, report: FoldReport | None) -> str:
    """README.md of an adapter folder."""
    place = base_place(request, beside=request.beside is not None)
    return "\n".join(
        [
            "# A personal LoRA adapter\n",
            PRIVATE,
            f"## What it needs\n\n{place.needs}\n\n{_versions(peft=True)}",
            f"## PEFT\n\n{_peft_load(place)}\n{_auto_load(request)}",
            f"## vLLM\n\n{_vllm(place, adapter)}",
            f"## llama.cpp\n\n{_llama_cpp(place)}",
            f"## What it is\n\n{content(request, report)}",
        ]
    )


def _peft_load(place: BasePlace) -> str:
    revision = "" if place.revision is None else f', revision="{place.revision}"'
    return f"""\
```python
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

base = AutoModelForCausalLM.from_pretrained("{place.model}"{revision})
tokenizer = AutoTokenizer.from_pretrained("{place.tokenizer}"{revision})
model = PeftModel.from_pretrained(base, "ADAPTER")
```

ADAPTER is this folder.
"""


def _auto_load(request: Request) -> str:
    """How `AutoPeftModelForCausalLM`, which finds the base by itself, is called."""
    call = '`AutoPeftModelForCausalLM.from_pretrained("ADAPTER")`'
    if request.beside is not None:
        return f"""\
{call} loads base and adapter, from any current folder.
`adapter_config.json` names the base by its absolute path: PEFT looks for a relative one from the
current folder, not from the adapter's. So after moving this folder, set the path once:

```bash
cd ADAPTER && python -c 'import json, os; name = "adapter_config.json"; config = json.load(open(name))
config["base_model_name_or_path"] = os.path.abspath("base"); json.dump(config, open(name, "w"), indent=1)'
```

The lines above need no path in it, and work wherever the folder lies.
"""
    if request.base is not None:
        return f"{call} loads base and adapter,\nfrom any current folder.\n"
    return f"""\
{call} finds the base from the folder of bundles only,
since PEFT looks for a relative path from the current folder:

```bash
cd "$(proper path)/bundles"   # its base is ./{request.bundle_id}/base
```
"""


def _vllm(place: BasePlace, adapter: PeftAdapter) -> str:
    if adapter.rank not in SERVED_RANKS:
        return f"Its rank of {adapter.rank} is more than vLLM takes.\n"
    serve = f"vllm serve {place.model}"
    if place.revision is not None:
        serve += f" --revision {place.revision}"
    elif place.tokenizer != place.model:
        serve += f" --tokenizer {place.tokenizer}"
    return f"""\
```bash
{serve} --enable-lora --max-lora-rank {adapter.rank} --lora-modules personal=ADAPTER
```

Ask it for the model `personal`. Its rank of {adapter.natural_rank} was filled up with zeros to {adapter.rank}, which is a
rank vLLM takes; the scale is 1.
"""


def _llama_cpp(place: BasePlace) -> str:
    option = "--base-model-id" if place.revision is not None else "--base"
    return f"""\
`proper export --format gguf` writes what llama.cpp loads. Its own converter takes this folder too:

```bash
python convert_lora_to_gguf.py {option} {place.model} --outtype f32 ADAPTER
```
"""


def merged_readme(request: Request, report: FoldReport | None) -> str:
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
python convert_hf_to_gguf.py MODEL                     # llama.cpp
mlx_lm.generate --model MODEL --prompt "..."           # MLX
```

MODEL is this folder. It needs no other base; it was made from the bundle
`{request.bundle_id}`.

{_versions(peft=False)}""",
            f"## What it is\n\n{content(request, report)}{rounding(request.dtype)}",
        ]
    )


def _versions(*, peft: bool) -> str:
    """What reads the files."""
    libraries = "peft 0.19 or later, with transformers" if peft else "Transformers"
    return f"""\
{libraries} 4.57 or 5, with the same results: configurations hold the field
names of both, where this program wrote them. They were written with transformers {importlib.metadata.version("transformers")}.
Transformers 4 computes in float32 unless told `torch_dtype="auto"`; 5 in the stored dtype.
"""


def rounding(dtype: torch.dtype | None) -> str:
    """What storing in a narrow dtype costs; nothing for a wide one."""
    if dtype not in (torch.bfloat16, torch.float16):
        return ""
    name = str(dtype).removeprefix("torch.")
    digits = 8 if dtype is torch.bfloat16 else 11
    return (
        f"Its weights are stored in {name} like the base's: sums were taken in float64 and rounded "
        f"once\nto {digits} binary digits, so answers may differ slightly from PROPER's. An adapter "
        "(`--format peft`) is\nnot rounded.\n"
    )


def _retrieval(task: Task) -> list[str]:
    """What an asker has to put before a question, where the adapter was trained so."""
    if not task.retrieve:
        return []
    many = (
        "the whole history, oldest first, as far as there is room"
        if task.retrieve == ALL
        else f"{counted(task.retrieve, 'own item')}, the best first, that Okapi BM25 finds for the\n"
        "question's text"
    )
    template = task.template.partition("+")[0]
    line = json.dumps(task.spec.templates[template].line, ensure_ascii=False)
    return [
        f"**It was trained with own items before every question**: {many}. The items are not in this\n"
        "folder. A program that asks it has to put a line an item before the question, each ended by a\n"
        "line break, as it has them in its own store; without them answers are worse. A line is\n\n"
        f"    {line}\n\n"
        f"with an item's fields in the braces (`line` of template set `{template}`, written as JSON)."
    ]


def content(request: Request, report: FoldReport | None) -> str:
    """Task, exactness, and what the base was held in for training."""
    release = request.release
    trained_over = request.trained_over or release.settings.base_weights
    lines = [
        f"It answers the task `{request.task.name}`; ask in the words of the bundle's `task.toml`.",
        *_retrieval(request.task),
    ]
    if report is None or not report.routed:
        exact = ": but for rounding, the answers are PROPER's" if report is None else ""
        lines.append(f"Experts and private LoRA were folded exactly{exact}.")
    if report is not None:
        lines.append(f"**Approximate.** {_lost(report)}")
    if trained_over != BaseWeights.FULL:
        lines.append(
            f"It was trained over a base held in {trained_over.value}; over the full base answers "
            "differ slightly."
        )
    return "\n".join(lines) + "\n"


def _lost(report: FoldReport) -> str:
    """What the export does otherwise than PROPER, and what that costs."""
    told = []
    if report.routed:
        told.append(
            "PROPER chooses experts by token; here their mean over the person's own items\n"
            "is folded in."
        )
    if report.mixed:
        weight, temperature = report.share
        told.append(
            "This is stage 3 alone. PROPER mixes its probabilities with those of stage 2, with "
            f"weight\n{weight:g}, at temperature {temperature:g}, which no single model does."
        )
    where = "On those items" if report.routed else "On own items"
    told.append(
        f"{where} the loss of an answer token went from {report.exact_nll:.4f} to "
        f"{report.folded_nll:.4f}."
    )
    return " ".join(told)
