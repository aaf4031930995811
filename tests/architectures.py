"""Which causal language models of transformers work: PROPER's verdict on each, and the truth.

`python -m tests.architectures > docs/models.md` writes the table; a few minutes on one core.

The verdict is the base check's on the configuration as it comes, weights unseen. The truth is
measured without the check's code or samples, on a model of its own: losses of packed rows against
each by itself, answers generated together against each alone, an exported adapter loaded by PEFT.
"""

from __future__ import annotations

import dataclasses
import json
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.utils import logging

from proper_model.answering.decoding import greedy
from proper_model.base.config import empty_model, text_config
from proper_model.base.model_types import LARGEST_EMBEDDED_PARAMETERS, MODEL_TYPES, NESTED_TYPES
from proper_model.checks.base import check_architecture
from proper_model.checks.miniature import NARROW, WIDE, shrunk
from proper_model.checks.publishable import check_config
from proper_model.errors import ProperError
from proper_model.export.peft_lora import peft_adapter
from proper_model.export.user_fold import fold_release
from proper_model.kernels.packing import Encoded, pack
from proper_model.model.adapted_model import AdaptedModel
from proper_model.model.passes import Pass, personal_pass
from proper_model.settings.profile import ATTENTION_TARGETS, PopulationSettings, StageSettings
from proper_model.text.encoding import Encoder
from tests.exports import noisy_release, user_tensors
from tests.tiny import FakeTokenizer, loss_alone

SETTINGS = StageSettings(
    name="architectures",
    max_prompt_tokens=512,
    max_answer_tokens=32,
    population=PopulationSettings(rank=2, targets=ATTENTION_TARGETS),
)
LENGTHS = ((17, 3), (5, 2), (9, 4), (9, 4), (2, 1))
VOCABULARY = 96
QUIET = 0.4
LOSS, LOGITS = 1e-4, 1e-3  # of losses in nats; of logits, relative to the largest

DYNAMIC = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}
YARN = {
    "rope_type": "yarn",
    "factor": 4.0,
    "rope_theta": 1e4,
    "original_max_position_embeddings": 128,
}
LONG = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "short_factor": [1.0] * 64,
    "long_factor": [4.0] * 64,
    "factor": 4.0,
    "original_max_position_embeddings": 128,
}


def roped(rope: dict[str, Any], positions: int) -> tuple[str, dict[str, Any]]:
    return "llama", {"rope_parameters": rope, "max_position_embeddings": positions}


# Configurations that are not a type's own default: (type, settings).
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama, dynamic rope, rows may reach beyond": roped(DYNAMIC, 128),
    "llama, dynamic rope, rows stay within": roped(DYNAMIC, 4096),
    "llama, yarn": roped(YARN, 512),
    "llama, longrope, rows may reach beyond": roped(LONG, 512),
    "llama, longrope, rows stay within": roped(
        {**LONG, "original_max_position_embeddings": 2048}, 8192
    ),
    "llama, one key head": ("llama", {"num_key_value_heads": 1}),
    "llama, linears with biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "qwen2, windows from layer 3 on": (
        "qwen2",
        {"use_sliding_window": True, "max_window_layers": 3, "sliding_window": 64},
    ),
    "mistral, no window": ("mistral", {"sliding_window": None}),
    "qwen3_moe, all layers dense": ("qwen3_moe", {"mlp_only_layers": list(range(48))}),
    "qwen2_moe, all layers dense": ("qwen2_moe", {"mlp_only_layers": list(range(48))}),
    "qwen3_next, all layers dense": ("qwen3_next", {"mlp_only_layers": list(range(48))}),
    "deepseek_v3, all layers dense": ("deepseek_v3", {"first_k_dense_replace": 61}),
    "glm4_moe, all layers dense": ("glm4_moe", {"first_k_dense_replace": 46}),
    "ernie4_5_moe, all layers dense": ("ernie4_5_moe", {"moe_layer_start_index": 27}),
    "jamba, all layers dense": ("jamba", {"num_experts": 1}),
    "granitemoehybrid, all layers dense": ("granitemoehybrid", {"num_local_experts": 0}),
    "bamba, with attention": ("bamba", {"attn_layer_indices": [2, 5]}),
    "hunyuan_v1_dense, heads of 128": ("hunyuan_v1_dense", {"head_dim": 128}),
    "ministral, heads of 128": ("ministral", {"head_dim": 128}),
    "gemma4_text, keys shared by layers": ("gemma4_text", {"num_kv_shared_layers": 10}),
}


def kinds() -> Iterator[str]:
    """Every type with a causal language model, then the variants."""
    yield from MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    yield from VARIANTS


def config_of(kind: str) -> Any:
    """The configuration of a kind in full size."""
    model_type, settings = VARIANTS.get(kind, (kind, {}))
    return AutoConfig.for_model(model_type, **settings)


def check_kind(kind: str) -> None:
    """Whether a run would work with a kind. Raises BaseModelError."""
    config = config_of(kind)
    check_architecture(config, empty_model(config), SETTINGS)


def verdict(kind: str) -> str | None:
    """Why the base check refuses a kind; None if it passes."""
    try:
        config = config_of(kind)
    except Exception as error:  # noqa: BLE001 - of transformers' own default
        return f"its default configuration cannot be made ({type(error).__name__})"
    try:
        model = empty_model(config)
        check_architecture(config, model, SETTINGS)
        check_config(config, model)
    except ProperError as error:
        return error.message
    return None


def rows() -> list[Encoded]:
    generator = torch.Generator().manual_seed(31)
    return [
        Encoded(
            tuple(torch.randint(3, VOCABULARY, (asked + said,), generator=generator).tolist()),
            asked,
        )
        for asked, said in LENGTHS
    ]


def model_of(kind: str, layers: int) -> Any:
    """A model of the kind with random weights wide enough for attention to be uneven.

    In float64, where rounding is too small to be taken for a fault; but not where that would be by
    eager attention, which makes padding NaN in it.
    """
    text = text_config(config_of(kind))
    longest = SETTINGS.max_prompt_tokens + SETTINGS.max_answer_tokens
    share = WIDE if text.model_type == "helium" else NARROW  # its projections are square
    if getattr(text, "num_kv_shared_layers", 0):  # counted from the last layer
        layers = text.num_hidden_layers
    small = shrunk(text, min(layers, text.num_hidden_layers), longest, share)
    torch.manual_seed(5)
    try:
        model = AutoModelForCausalLM.from_config(small, attn_implementation="sdpa").double().eval()
    except ValueError:
        model = AutoModelForCausalLM.from_config(small, attn_implementation="eager").float().eval()
    generator = torch.Generator().manual_seed(6)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.Linear | torch.nn.Embedding):
                noise = torch.randn(module.weight.shape, generator=generator)
                module.weight.copy_(noise * module.weight.shape[1] ** -0.5)
    model.generation_config = GenerationConfig(pad_token_id=0, eos_token_id=VOCABULARY)
    return model


def faults(kind: str, layers: int = 6) -> list[str]:
    """What is measured to be wrong with a kind; empty if it works."""
    base = model_of(kind, layers)
    found = []
    release = noisy_release("device", base=base, referenced=True)
    # The base as it was: noisy_release merges into the one it is given.
    public = model_of(kind, layers)
    # Less noise than for other tests: with more, float32's rounding changes the result.
    release = dataclasses.replace(release, shared={n: t * QUIET for n, t in release.shared.items()})
    dtype = base.dtype
    model = release.model().to(dtype)
    users = [
        {name: t.to(dtype) * QUIET for name, t in user_tensors(release, seed=seed).items()}
        for seed in range(len(LENGTHS))
    ]
    model.lora = model.new_user_lora(list(range(len(LENGTHS)))).to(dtype)
    for number, site in enumerate(model.sites):
        for slot, tensors in enumerate(users):
            model.lora.a[number].data[slot] = tensors[f"lora.{site.path}.A"]
            model.lora.b[number].data[slot] = tensors[f"lora.{site.path}.B"]
    embeddings = torch.stack([tensors["embedding"] for tensors in users])

    def now(slots: Any) -> Pass:
        routing = model.structure.user_routing
        return personal_pass(slots, embeddings=embeddings, routing=routing, experts=True)

    items = rows()
    batch = pack(items, range(len(items)))
    with torch.no_grad():
        packed = model.answer_loss(batch, now(batch.slots))
        for row, item in enumerate(items):
            with model.attached(), model.running(now(torch.tensor([row]))):
                alone = loss_alone(model.base, item)
            if not abs(float(packed[row] - alone)) < LOSS:
                found.append(f"row {row}: loss {float(packed[row])} packed, {float(alone)} alone")
    found += generation_faults(model, items, now)
    fold = fold_release(release, users[0])
    adapter = peft_adapter(release, fold, base_name="any", dtype=dtype)
    tokens = torch.tensor([items[0].tokens])
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        save_file(dict(adapter.tensors), Path(folder) / "adapter_model.safetensors")
        (Path(folder) / "adapter_config.json").write_text(json.dumps(adapter.config))
        theirs = PeftModel.from_pretrained(public, folder).eval()(input_ids=tokens).logits
        with model.attached(), model.running(now(torch.tensor([0]))):
            ours = model.base(input_ids=tokens).logits
    if not far(theirs, ours) < LOGITS:
        found.append(f"PEFT gives other logits, by {far(theirs, ours):.1g}")
    return found


def generation_faults(model: AdaptedModel, items: list[Encoded], now: Any) -> list[str]:
    """Answers of all prompts at once against each prompt's alone."""
    encoder = Encoder(FakeTokenizer(), max_prompt_tokens=64, max_answer_tokens=8)
    encoder.eos = VOCABULARY
    prompts = [item.tokens[: item.prompt_tokens] for item in items]
    together = greedy(
        model, encoder, prompts, range(len(items)), now, max_new_tokens=6, with_logits=True
    )
    found = []
    for row, prompt in enumerate(prompts):
        alone = greedy(model, encoder, [prompt], [row], now, max_new_tokens=6, with_logits=True)
        if not torch.equal(together[0][row], alone[0][0]):
            found.append(f"row {row}: another answer among other rows")
        elif not far(together[1][row], alone[1][0]) < LOGITS:
            found.append(f"row {row}: other logits among other rows")
    return found


def far(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


HEADER = """# Which base models work

The verdict of the base check on every causal language model of the installed transformers, in its
default configuration and in some that are not ({count} in all): `works` means that packed training
equals training row by row, that answers generated together equal each alone, and that PEFT loads an
exported adapter with the same logits, and that a device takes a release over it and builds the same
model. The check runs before a run starts and does all this on a small model of the same
architecture, so it also judges configurations that are not listed. Devices know {types} types of
models of text, and one of checkpoints that read images too ({nested}): a release embeds a base of
at most {largest} million parameters, for which the type of its language model counts, and refers to
a larger one. The list is made by `python -m tests.architectures > docs/models.md`, and
`pytest -m full tests/test_architectures.py` measures each verdict `works` again in other ways.

A base out of a GGUF file, or without a hub: [bases](bases.md).

Profiles whose `population.targets` are others than the four attention projections can decide
otherwise. Made with transformers {version}.

| type | verdict | reason |
| --- | --- | --- |"""


def main() -> None:
    import transformers

    torch.set_num_threads(1)
    logging.set_verbosity_error()
    warnings.simplefilter("ignore")
    names = list(kinds())
    header = HEADER.format(
        count=len(names),
        version=transformers.__version__,
        types=len(MODEL_TYPES),
        nested=", ".join(sorted(NESTED_TYPES)),
        largest=LARGEST_EMBEDDED_PARAMETERS // 10**6,
    )
    print(header)  # noqa: T201
    for kind in sorted(names):
        why = verdict(kind)
        said = "" if why is None else " ".join(why.replace("|", "/").split())
        print(f"| {kind} | {'works' if why is None else 'refused'} | {said} |", flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
