"""A base model small enough to be trained in seconds: two Llama blocks and a word-level tokenizer.

It stands in for a language model in the demo and in tests: it has met the words, the format of
questions and answers, and what texts are about, but no user. Source: docs/method.md 5.5 (d=64,
f=172, L=2, at most 600 words).
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from proper_model.errors import BaseModelError, TrainingError
from proper_model.progress import Steps

PAD, BOS, EOS, UNK = SPECIAL = ("<pad>", "<s>", "</s>", "<unk>")
LARGEST_VOCABULARY = 600
# Raised when the same texts should give another model than before.
RECIPE = 1


@dataclass(frozen=True)
class TinyShape:
    """Sizes of the model. `context` is the longest text in tokens."""

    width: int = 64
    ffn: int = 172
    layers: int = 2
    heads: int = 4
    context: int = 128


@dataclass(frozen=True)
class Pretraining:
    """How the base learns the texts."""

    epochs: int = 6
    batch_size: int = 64
    learning_rate: float = 4e-3
    weight_decay: float = 0.01
    warmup_share: float = 0.05
    max_grad_norm: float = 1.0


def make_tiny_base(
    folder: Path,
    texts: Sequence[str],
    *,
    vocabulary: Iterable[str] = (),
    seed: int = 0,
    shape: TinyShape | None = None,
    training: Pretraining | None = None,
    progress: Steps | None = None,
) -> Path:
    """Build and pretrain a base below `folder`, or find the one built before from the same inputs.

    Args:
        folder: holds one folder a base; created if needed.
        texts: what to pretrain on, words separated by blanks.
        vocabulary: further words the tokenizer must know.
        seed: of the first weights and of the order of texts.
        shape: sizes, by default docs/method.md 5.5's.
        training: length and rate of pretraining.
        progress: called with steps done and steps in all.

    Returns:
        A folder in Hugging Face form: config, safetensors and tokenizer.

    Raises:
        BaseModelError: no text, more than 600 words, or a text longer than the context.
        TrainingError: the loss is not finite.
    """
    shape, training = shape or TinyShape(), training or Pretraining()
    words, name = _recipe(texts, vocabulary, seed, shape, training)
    target = folder / name
    if target.is_dir():
        return target
    tokenizer = word_tokenizer(words)
    encoded = [tokenizer(text)["input_ids"] + [tokenizer.eos_token_id] for text in texts]
    if (longest := max(map(len, encoded))) > shape.context:
        raise BaseModelError(f"tiny base: a text of {longest} tokens, at most {shape.context} fit")
    with _reproducible(seed):
        model = tiny_llama(len(tokenizer), shape, pad=tokenizer.pad_token_id)
        _pretrain(model, encoded, tokenizer.pad_token_id, training, seed, progress)
    _save(model, tokenizer, target)
    return target


def sketch_tiny_base(
    folder: Path, texts: Sequence[str], *, vocabulary: Iterable[str] = (), seed: int = 0
) -> Path:
    """Configuration and tokenizer of the base that `make_tiny_base` would make, under its name.

    Nothing is trained, and there are no weights.
    """
    shape = TinyShape()
    words, name = _recipe(texts, vocabulary, seed, shape, Pretraining())
    tokenizer = word_tokenizer(words)
    tiny_config(len(tokenizer), shape, pad=tokenizer.pad_token_id).save_pretrained(folder / name)
    tokenizer.save_pretrained(folder / name)
    return folder / name


def _recipe(
    texts: Sequence[str],
    vocabulary: Iterable[str],
    seed: int,
    shape: TinyShape,
    training: Pretraining,
) -> tuple[list[str], str]:
    """Words of a base, and its name, which says all that it is made from."""
    words = sorted({w for text in texts for w in text.split()} | set(vocabulary))
    if not texts:
        raise BaseModelError("tiny base: no texts to pretrain on")
    if len(words) + len(SPECIAL) > LARGEST_VOCABULARY:
        raise BaseModelError(
            f"tiny base: {len(words)} words, at most {LARGEST_VOCABULARY - len(SPECIAL)} fit",
            hint="the tiny base is for synthetic populations; give a real base with --base",
        )
    recipe = [RECIPE, asdict(shape), asdict(training), seed, words, list(texts)]
    return words, "tiny-" + hashlib.sha256(json.dumps(recipe).encode()).hexdigest()[:16]


def word_tokenizer(words: Sequence[str]) -> Any:
    """One token a word. "based on a book" is four tokens, "sci-fi" and "tag:" are one each."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    ids = {word: i for i, word in enumerate((*SPECIAL, *words))}
    backend = Tokenizer(models.WordLevel(ids, unk_token=UNK))
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, ids[BOS])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        unk_token=UNK,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def tiny_llama(vocabulary: int, shape: TinyShape, *, pad: int) -> Any:
    """A Llama of the given shape with random weights from torch's global generator."""
    from transformers import LlamaForCausalLM

    return LlamaForCausalLM(tiny_config(vocabulary, shape, pad=pad))


def tiny_config(vocabulary: int, shape: TinyShape, *, pad: int) -> Any:
    """The configuration of `tiny_llama`."""
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=shape.width,
        intermediate_size=shape.ffn,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        max_position_embeddings=shape.context,
        pad_token_id=pad,
        bos_token_id=SPECIAL.index(BOS),
        eos_token_id=SPECIAL.index(EOS),
        tie_word_embeddings=False,
        attn_implementation="eager",
    )


@contextmanager
def _reproducible(seed: int) -> Iterator[None]:
    """One thread and a generator of our own, both given back.

    More threads sum in another order, and matrices this small are slower on several.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            yield
    finally:
        torch.set_num_threads(threads)


def _pretrain(
    model: Any,
    texts: Sequence[Sequence[int]],
    pad: int,
    training: Pretraining,
    seed: int,
    progress: Steps | None,
) -> None:
    per_epoch = math.ceil(len(texts) / training.batch_size)
    steps = per_epoch * training.epochs
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=training.learning_rate, weight_decay=training.weight_decay
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: _rate(step, steps, training.warmup_share)
    )
    order = torch.Generator().manual_seed(seed)
    model.train()
    done = 0
    for _ in range(training.epochs):
        shuffled = torch.randperm(len(texts), generator=order).tolist()
        for start in range(0, len(texts), training.batch_size):
            rows = [texts[i] for i in shuffled[start : start + training.batch_size]]
            loss = _loss(model, rows, pad)
            if not torch.isfinite(loss):
                raise TrainingError(f"tiny base: the loss is not finite at step {done}")
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), training.max_grad_norm)
            optimizer.step()
            schedule.step()
            done += 1
            if progress is not None:
                progress(done, steps)
    model.eval()


def _rate(step: int, steps: int, warmup_share: float) -> float:
    """Share of the learning rate at a step: linear warm-up, then a cosine to zero."""
    warmup = max(1, round(warmup_share * steps))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def _loss(model: Any, rows: Sequence[Sequence[int]], pad: int) -> Tensor:
    """Mean loss a token of right-padded rows; causal attention never sees the padding."""
    width = max(map(len, rows))
    ids = torch.tensor([[*row, *[pad] * (width - len(row))] for row in rows])
    logits = model(input_ids=ids[:, :-1], use_cache=False).logits
    return torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), ids[:, 1:].flatten(), ignore_index=pad
    )


def _save(model: Any, tokenizer: Any, target: Path) -> None:
    """Write the folder beside its place and rename it, so that a killed build leaves nothing."""
    target.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    try:
        # Not `model.save_pretrained`: it draws a progress bar of its own.
        model.config.save_pretrained(building)
        save_file(model.state_dict(), building / "model.safetensors", metadata={"format": "pt"})
        tokenizer.save_pretrained(building)
        building.chmod(0o755)
        try:
            os.replace(building, target)
        except OSError:
            # Another process finished the same model first; theirs is the same.
            if not target.is_dir():
                raise
    finally:
        shutil.rmtree(building, ignore_errors=True)
