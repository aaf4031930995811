"""The README of a folder for llama.cpp or MLX; as `folder_readme` for the rest."""

from __future__ import annotations

from client.export.folder_readme import PRIVATE, base_place, content, rounding
from client.export.request import Request
from proper_model.export import FoldReport


def gguf_readme(request: Request, rank: int, report: FoldReport | None) -> str:
    """README.md of a folder with `adapter.gguf`, and with `base.gguf` if that is beside."""
    place = base_place(request, beside=False)
    if request.beside is not None:
        name = "the bundle's own base" if request.base is None else f"`{request.base.name}`"
        needs = f"Nothing else: its base, {name}, is `base.gguf` here."
        model, make = "ADAPTER/base.gguf", ""
    else:
        needs, model = place.needs, "BASE.gguf"
        make = f"""\
BASE.gguf is that base as a GGUF, in any precision. llama.cpp's script makes one:

```bash
{_collect(place.model, place.tokenizer, place.revision)}
python convert_hf_to_gguf.py BASE --outfile BASE.gguf
```

"""
    return "\n".join(
        [
            "# A personal LoRA adapter for llama.cpp\n",
            PRIVATE,
            f"## What it needs\n\n{needs}\n",
            f"""\
## How to load it

{make}```bash
llama-cli --model {model} --lora ADAPTER/adapter.gguf --prompt "..."
llama-server --model {model} --lora ADAPTER/adapter.gguf
```

```python
from llama_cpp import Llama

model = Llama("{model}", lora_path="ADAPTER/adapter.gguf")
```

ADAPTER is this folder. The rank is {rank}, the scale 1, numbers are float32. llama.cpp keeps its
cache of keys and values in float16 unless told `--cache-type-k f32 --cache-type-v f32`.
""",
            f"## What it is\n\n{content(request, report)}",
        ]
    )


def gguf_merged_readme(request: Request, report: FoldReport | None) -> str:
    """README.md of a folder with `model.gguf`."""
    return "\n".join(
        [
            "# A personal language model for llama.cpp\n",
            PRIVATE,
            f"""\
## How to load it

```bash
llama-cli --model MODEL/model.gguf --prompt "..."
llama-server --model MODEL/model.gguf
```

```python
from llama_cpp import Llama

model = Llama("MODEL/model.gguf")
```

MODEL is this folder. It needs no other base; it was made from the bundle
`{request.bundle_id}`. `llama-quantize` makes it smaller.
""",
            f"## What it is\n\n{content(request, report)}{rounding(request.dtype)}",
        ]
    )


def mlx_readme(request: Request, rank: int, report: FoldReport | None) -> str:
    """README.md of a folder with an adapter of mlx-lm."""
    place = base_place(request, beside=request.beside is not None)
    model, collect = place.model, ""
    revision = "" if place.revision is None else f', revision="{place.revision}"'
    if place.model != place.tokenizer:
        model = "BASE"
        collect = f"""\
mlx-lm reads model and tokenizer from one folder:

```bash
{_collect(place.model, place.tokenizer, None)}
```

"""
    command = f"""\
```bash
mlx_lm.generate --model {model} --adapter-path ADAPTER --prompt "..."
```

"""
    if place.revision is not None:  # which that command cannot name
        command = ""
    return "\n".join(
        [
            "# A personal LoRA adapter for MLX\n",
            PRIVATE,
            f"## What it needs\n\n{place.needs}\n\nmlx-lm; compared with version 0.32.\n",
            f"""\
## How to load it

{collect}```python
from mlx_lm import generate, load

model, tokenizer = load("{model}", adapter_path="ADAPTER"{revision})
print(generate(model, tokenizer, prompt="..."))
```

{command}ADAPTER is this folder. The rank is {rank}, the scale 1, numbers are float32.
""",
            f"## What it is\n\n{content(request, report)}",
        ]
    )


def _collect(model: str, tokenizer: str, revision: str | None) -> str:
    """Commands that put model and tokenizer into one folder BASE."""
    if model == tokenizer:
        return f"hf download {model} --revision {revision} --local-dir BASE"
    return f"cp -r {model} BASE && cp {tokenizer}/* BASE/"
