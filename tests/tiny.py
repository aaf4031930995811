"""Tiny random bases of several architectures, and small helpers for model tests."""

from __future__ import annotations

import dataclasses
import random
from typing import Any

import torch
from torch import Tensor

from proper_model.engine.trials import TrialSettings, lora_settings
from proper_model.kernels.packing import Batch, Encoded
from proper_model.model.adapted_model import AdaptedModel
from proper_model.model.passes import Pass, personal_pass
from proper_model.settings.presets import Structure, preset
from proper_model.settings.profile import StageSettings
from proper_model.text.encoding import Encoder
from simulations.synthetic.tiny_base import word_tokenizer

VOCABULARY = 64
ARCHITECTURES = ("llama", "qwen2", "mistral", "gemma")


def tiny_base(
    architecture: str = "llama",
    *,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
    **changes: Any,
) -> Any:
    """A random causal LM of two blocks, d=16, f=24; `changes` are to its configuration."""
    import transformers as hf

    sizes = {
        "vocab_size": VOCABULARY,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
    }
    kinds = {
        "llama": (hf.LlamaConfig, hf.LlamaForCausalLM, {}),
        "qwen2": (hf.Qwen2Config, hf.Qwen2ForCausalLM, {}),
        "mistral": (hf.MistralConfig, hf.MistralForCausalLM, {"sliding_window": None}),
        "gemma": (hf.GemmaConfig, hf.GemmaForCausalLM, {"head_dim": 8}),
        "gemma2": (
            hf.Gemma2Config,
            hf.Gemma2ForCausalLM,
            {"head_dim": 8, "attn_implementation": "eager"},  # it caps scores, sdpa cannot
        ),
        "qwen3": (hf.Qwen3Config, hf.Qwen3ForCausalLM, {"head_dim": 8}),
        "smollm3": (
            hf.SmolLM3Config,
            hf.SmolLM3ForCausalLM,
            {"bos_token_id": 2, "eos_token_id": 1},
        ),
        "gemma3_text": (
            hf.Gemma3TextConfig,
            hf.Gemma3ForCausalLM,
            {
                "num_hidden_layers": 7,  # the sixth attends to all tokens
                "num_key_value_heads": 1,
                "head_dim": 8,
                "query_pre_attn_scalar": 8,
                "sliding_window": 8,
                "attn_implementation": "eager",
                "rope_parameters": {
                    "full_attention": {"rope_type": "linear", "rope_theta": 5e5, "factor": 4.0},
                    "sliding_attention": {"rope_type": "default", "rope_theta": 2e4},
                },
            },
        ),
    }
    config_class, model_class, extra = kinds[architecture]
    torch.manual_seed(seed)
    settings = {**sizes, "attn_implementation": "sdpa", "pad_token_id": 0, **extra, **changes}
    config = config_class(**settings)
    return model_class(config).to(dtype).eval()


def words() -> Any:
    """A tokenizer with a word for each of a tiny base's rows."""
    return word_tokenizer([f"w{i}" for i in range(VOCABULARY - 4)])


class FakeTokenizer:
    """Just what `Encoder` needs for hand-made samples."""

    eos_token_id = 1
    pad_token_id = 0
    chat_template = None


def encoder() -> Encoder:
    return Encoder(FakeTokenizer(), max_prompt_tokens=32, max_answer_tokens=8)


def sample(rng: random.Random, *, shortest: int = 4, longest: int = 12) -> Encoded:
    prompt = [rng.randrange(2, VOCABULARY) for _ in range(rng.randint(shortest, longest))]
    answer = [rng.randrange(2, VOCABULARY) for _ in range(rng.randint(1, 3))]
    return Encoded((*prompt, *answer, 1), len(prompt))


def samples(count: int, seed: int) -> tuple[Encoded, ...]:
    rng = random.Random(seed)
    return tuple(sample(rng) for _ in range(count))


def batch_of(items: tuple[Encoded, ...], slots: list[int]) -> Batch:
    return encoder().batch(items, slots)


def passes(tokens: int, *, slots: int | None = None, recompute: bool = False) -> TrialSettings:
    """Settings that bound a pass."""
    own = lora_settings(StageSettings(name="tests"), epochs=1)
    return dataclasses.replace(own, tokens_per_step=tokens, slots=slots, recompute=recompute)


def loss_alone(base: Any, item: Encoded) -> Tensor:
    """The mean loss of one sample's answer under any causal LM of Hugging Face, by itself."""
    tokens = torch.tensor([item.tokens])
    logits = base(input_ids=tokens).logits[0, item.prompt_tokens - 1 : -1]
    loss: Tensor = torch.nn.functional.cross_entropy(logits, tokens[0, item.prompt_tokens :])
    return loss


def randomize(tensors: Any, seed: int, std: float = 0.3) -> None:
    """Fill parameters with noise, so that zero starts hide nothing."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in tensors:
            noise = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
            tensor.copy_(noise * std)


def adapted(
    structure: Structure | str = "default",
    *,
    users: int = 3,
    architecture: str = "llama",
    noisy: bool = True,
) -> AdaptedModel:
    """A float64 adapted model with `users` LoRA slots; noisy parameters unless told otherwise."""
    chosen = preset(structure) if isinstance(structure, str) else structure
    model = AdaptedModel(
        tiny_base(architecture), chosen, generator=torch.Generator().manual_seed(1)
    ).double()
    model.lora = model.new_user_lora(list(range(users))).double()
    if noisy:
        randomize(model.parameters(), seed=2)
    model.requires_grad_(False)
    return model


def embeddings_of(model: AdaptedModel, users: int, seed: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    shape = (users, *model.embedding_shape)
    return torch.randn(shape, generator=generator, dtype=torch.float64) * 0.3


def stage3_pass(
    model: AdaptedModel, slots: Tensor, embeddings: Tensor | None = None, *, dropout: float = 0.0
) -> Pass:
    """Experts, routers and adapters of a model's structure; embeddings of three users by default."""
    made = personal_pass(
        slots,
        embeddings=embeddings_of(model, 3) if embeddings is None else embeddings,
        routing=model.structure.user_routing,
        experts=True,
    )
    made.dropout = dropout
    return made


def trained_factors(model: AdaptedModel) -> list[Tensor]:
    """The factors of the users in a model, A of every site and then B, which now take gradients."""
    found: list[Tensor] = [*model.lora.a, *model.lora.b]
    for factor in found:
        factor.requires_grad_(True)
    return found


class ExactNorm(torch.nn.Module):
    """RMSNorm in the input's own precision; Hugging Face's computes in float32 whatever comes in,
    so that rounding would differ with a batch's shape.
    """

    def __init__(self, weight: Tensor, epsilon: float) -> None:
        super().__init__()
        self.weight, self.epsilon = weight, epsilon

    def forward(self, x: Tensor) -> Tensor:
        scale = torch.rsqrt(x.square().mean(-1, keepdim=True) + self.epsilon)
        normed: Tensor = self.weight * (x * scale)
        return normed


def exact_norms(base: Any) -> None:
    """Make a Llama compute in float64 throughout."""
    for path, module in list(base.named_modules()):
        if type(module).__name__.endswith("RMSNorm"):
            parent, _, name = path.rpartition(".")
            exact = ExactNorm(module.weight, module.variance_epsilon)
            setattr(base.get_submodule(parent), name, exact)
