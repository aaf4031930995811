"""What a run does with a base, done once in small: is every row's result its own?

A miniature of the base (`miniature`) takes each step that a run takes, and every result is
compared with that of the same row by itself, as Hugging Face's own code computes it:

    a packed pass of the base, and of stage 1's PEFT model and its gradients
    the same with experts and private adapters
    greedy answers to several prompts at once, and to one prompt token by token
    an adapter as it is exported, loaded again by PEFT

A layer that keeps a state along its input, rotary frequencies that follow the longest row, a window
or a mask of its own: whatever lets one row change another shows here, and so does what fails.

Letters: R rows, T tokens, V vocabulary.
"""

from __future__ import annotations

import copy
import json
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from proper_model.answering.decoding import greedy
from proper_model.answering.streaming import stream_tokens
from proper_model.base.config import empty_model, text_config
from proper_model.base.loading import attention_for
from proper_model.base.population_lora import (
    PopulationMerge,
    attach_population,
    population_losses,
    population_state,
)
from proper_model.base.quantized import import_peft
from proper_model.checks.miniature import VOCABULARY, miniature
from proper_model.errors import BaseModelError
from proper_model.export.peft_lora import peft_adapter
from proper_model.export.user_fold import UserFold, fold_user
from proper_model.kernels.attention import packed_attention
from proper_model.kernels.packing import Batch, Encoded, pack, packed_inputs, token_nll
from proper_model.model.adapted_model import AdaptedModel
from proper_model.model.passes import Pass, personal_pass
from proper_model.release.contents import Release
from proper_model.settings.presets import preset
from proper_model.settings.profile import PopulationSettings, StageSettings
from proper_model.text.encoding import Encoder

SEED = 7
# Relative. Two orders of summing in float32 make losses differ by a hundredth of it, and gradients,
# which pass more layers, by a tenth.
TOLERANCE = 1e-4
GRADIENT_TOLERANCE = 3e-3
# Of logits at every token, where other rows of the batch or another program computed them.
LOGIT_TOLERANCE = 1e-3
NOISE = 0.05
NEW_TOKENS = 4
# Tokens of prompts and answers: one row longer than any window of a miniature and than its SHORT,
# then two of one length, then one that is shorter.
ROWS = ((11, 4), (4, 2), (4, 2), (3, 2))
STREAMED = (0, 3)  # of these: the longest and the shortest
_OTHER = "use a dense Llama, Qwen, Mistral or Gemma base"


class _NoTokenizer:
    """What an encoder needs to pad; no token of the miniature ends an answer."""

    eos_token_id, pad_token_id, chat_template = VOCABULARY, 0, None


@dataclass(frozen=True)
class _Architecture:
    """A configuration, equal to every other that describes the same language model."""

    said: str
    config: Any = field(compare=False)

    @classmethod
    def of(cls, config: Any) -> _Architecture:
        said = {k: v for k, v in text_config(config).to_dict().items() if k != "_name_or_path"}
        return cls(json.dumps(said, sort_keys=True, default=str), config)

    def miniature(self, longest: int) -> Any:
        attention = attention_for(torch.device("cpu"), torch.float32)
        whole = empty_model(self.config)
        return miniature(self.config, whole, longest=longest, attention=attention)


def check_trial(config: Any, settings: StageSettings) -> None:
    """Every step of a run with `settings` on a base of this configuration. Raises BaseModelError."""
    longest = settings.longest_tokens(retrieval=True)
    _raise(_refusal(_Architecture.of(config), longest, settings.population))


def check_rows(config: Any, longest: int = 0) -> None:
    """That rows of one pass stay apart, for a base that is loaded. Raises BaseModelError.

    `longest`: tokens of the longest row, where that is known.
    """
    _raise(_refusal(_Architecture.of(config), longest, None))


@lru_cache(maxsize=64)
def _refusal(
    architecture: _Architecture, longest: int, population: PopulationSettings | None
) -> tuple[str, str | None] | None:
    """What is wrong with a base, message and hint, and None if nothing is.

    Tried with `population` are all steps of a run, without it the packed pass alone. It follows
    from the arguments, so each is tried once in a process.
    """
    try:
        small = architecture.miniature(longest)
        if population is not None:
            try_base(small, population)
        else:
            with _named("a packed pass"):
                Trial(small, None).packed_base()
    except BaseModelError as error:
        return error.message, error.hint
    return None


def _raise(refusal: tuple[str, str | None] | None) -> None:
    if refusal is not None:
        raise BaseModelError(refusal[0], hint=refusal[1])


def try_base(small: Any, population: PopulationSettings) -> None:
    """Take every step of a run on the miniature `small`. It is used up by that.

    Raises BaseModelError for what fails or lets one row change another.
    """
    from transformers import GenerationConfig

    small.generation_config = GenerationConfig(pad_token_id=0, eos_token_id=VOCABULARY)
    trial = Trial(small, population)
    for name, step in (
        ("a packed pass", trial.packed_base),
        ("a training step of stage 1", trial.train_population),
        ("a training step of private adapters", trial.train_private),
        ("generating answers", trial.generate),
        ("exporting an adapter to PEFT", trial.export),
    ):
        with _named(name):
            step()


@contextmanager
def _named(step: str) -> Iterator[None]:
    """Any failure as a refusal that says at which step."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except BaseModelError:
        raise
    except Exception as error:
        said = " ".join(str(error).split())[:160]
        raise BaseModelError(
            f"tried out in small, {step} fails ({type(error).__name__}: {said})", hint=_OTHER
        ) from error


def _samples(seed: int) -> list[Encoded]:
    generator = torch.Generator().manual_seed(seed)
    return [
        Encoded(
            tuple(torch.randint(3, VOCABULARY, (asked + said,), generator=generator).tolist()),
            asked,
        )
        for asked, said in ROWS
    ]


def _distance(found: Tensor, expected: Tensor) -> float:
    """Largest difference, relative to the largest expected value; infinite where either is none."""
    if not bool(found.isfinite().all()) or not bool(expected.isfinite().all()):
        return float("inf")
    return float((found - expected).abs().max() / (1e-3 + expected.abs().max()))


@dataclass
class Trial:
    """The steps on a miniature, each using what the ones before it left.

    The first step needs no settings of stage 1.
    """

    base: Any
    population: PopulationSettings | None

    @cached_property
    def samples(self) -> list[Encoded]:
        return _samples(SEED)

    @cached_property
    def batch(self) -> Batch:
        return pack(self.samples, range(len(ROWS)))

    @torch.no_grad()
    def packed_base(self) -> None:
        with packed_attention(self.base):
            logits = self.base(**packed_inputs(self.batch), logits_to_keep=self.batch.answer_at)
        far = _distance(_losses(self.batch, logits.logits[0]), self._alone(self.base))
        if far > TOLERANCE:
            raise self._shared(far)

    def train_population(self) -> None:
        """Stage 1's losses and gradients; leaves the factors in `state`, the base as it was."""
        assert self.population is not None
        peft = attach_population(self.base, self.population, seed=SEED)
        peft.eval()
        _noise([p for p in peft.parameters() if p.requires_grad])
        trained = [p for p in peft.parameters() if p.requires_grad]
        ours = population_losses(peft, self.batch, torch.float32)
        theirs = self._alone(peft)
        _compare("stage 1", ours, theirs, trained)
        self.state = population_state(peft)
        self.base = peft.unload()
        self.base.requires_grad_(False)

    def train_private(self) -> None:
        """Losses and gradients with everything on, over the merged base."""
        assert self.population is not None
        merge = PopulationMerge(self.population, self.state)
        self.merged = copy.deepcopy(self.base)
        for path, module in self.merged.named_modules():
            if isinstance(getattr(module, "weight", None), torch.nn.Parameter):
                with torch.no_grad():
                    module.weight.copy_(merge(path, module.weight.detach().clone()))
        merge.check_used()
        self.model = AdaptedModel(
            self.merged, preset("device"), generator=torch.Generator().manual_seed(SEED)
        )
        self.model.lora = self.model.new_user_lora(list(range(len(ROWS))))
        _noise(self.model.parameters())
        self.model.requires_grad_(False)
        shape = (len(ROWS), *self.model.embedding_shape)
        self.embeddings = torch.randn(shape, generator=torch.Generator().manual_seed(SEED)) * 0.3
        trained = list(self.model.lora.parameters())
        for factor in trained:
            factor.requires_grad_(True)
        ours = self.model.answer_loss(self.batch, self._pass(self.batch.slots))
        parts = []
        for row, sample in enumerate(self.samples):
            with self.model.attached(), self.model.running(self._pass(torch.tensor([row]))):
                parts.append(_alone(self.merged, sample))
        _compare("private adapters", ours, torch.stack(parts), trained)
        for factor in trained:
            factor.requires_grad_(False)

    @torch.no_grad()
    def generate(self) -> None:
        encoder = Encoder(_NoTokenizer(), max_prompt_tokens=64, max_answer_tokens=NEW_TOKENS)
        prompts = [sample.tokens[: sample.prompt_tokens] for sample in self.samples]
        expected = [self._greedy_alone(row, prompt) for row, prompt in enumerate(prompts)]
        tokens, logits = greedy(
            self.model, encoder, prompts, range(len(ROWS)), self._pass,
            max_new_tokens=NEW_TOKENS, with_logits=True,
        )  # fmt: skip
        assert logits is not None
        for row, (wanted, scores) in enumerate(expected):
            far = _distance(logits[row].float(), scores)
            if far > LOGIT_TOLERANCE or tokens[row].tolist() != wanted:
                raise BaseModelError(
                    "answers generated together differ from each generated by itself (logits by "
                    f"{far:.1g} of their size)",
                    hint=_OTHER,
                )
            if row not in STREAMED:
                continue
            streamed = list(
                stream_tokens(
                    self.model, encoder, prompts[row], self._pass_of(row), max_new_tokens=NEW_TOKENS
                )
            )
            if streamed != wanted:
                raise BaseModelError(
                    "an answer generated token by token, with keys and values kept, differs from "
                    "one computed anew for every token",
                    hint=_OTHER,
                )

    def export(self) -> None:
        """The joined adapter over the unmerged base, against the engine over the merged one."""
        assert self.population is not None
        scale = self.model.structure.scale
        factors = fold_user(self.model, self.embeddings[0].double(), 0)
        fold = UserFold(
            {p: (a.double(), b.double() * scale) for p, (a, b) in factors.items()}, None
        )
        nothing: Any = None  # neither tokenizer nor task is exported
        release = Release(
            base=self.merged,
            tokenizer=nothing,
            task=nothing,
            structure=self.model.structure,
            settings=StageSettings("trial", population=self.population),
            seed=0,
            shared={},
            population=self.state,
            notes={},
        )
        adapter = peft_adapter(release, fold, base_name="base")
        tokens = torch.tensor([self.samples[0].tokens])
        with tempfile.TemporaryDirectory() as folder, torch.no_grad():
            with self.model.attached(), self.model.running(self._pass(torch.tensor([0]))):
                ours = self.merged(input_ids=tokens).logits
            save_file(dict(adapter.tensors), Path(folder) / "adapter_model.safetensors")
            (Path(folder) / "adapter_config.json").write_text(json.dumps(adapter.config))
            loaded = import_peft().PeftModel.from_pretrained(self.base, folder).eval()
            theirs = loaded(input_ids=tokens).logits
        far = _distance(theirs, ours)
        if far > LOGIT_TOLERANCE:
            raise BaseModelError(
                f"an exported adapter, loaded by PEFT, is another model (logits differ by {far:.1g} "
                "of their size)",
                hint=_OTHER,
            )

    def _pass(self, slots: Tensor) -> Pass:
        routing = self.model.structure.user_routing
        return personal_pass(slots, embeddings=self.embeddings, routing=routing, experts=True)

    def _pass_of(self, row: int) -> Callable[[Tensor], Pass]:
        """From the slots of one row, all 0, to its pass."""
        return lambda slots: self._pass(slots + row)

    def _alone(self, model: Any) -> Tensor:
        """[R]: every row's loss as Hugging Face computes it by itself."""
        return torch.stack([_alone(model, sample) for sample in self.samples])

    def _greedy_alone(self, row: int, prompt: Sequence[int]) -> tuple[list[int], Tensor]:
        """Tokens and their logits [T, V], the whole text computed anew for every token."""
        text, scores = list(prompt), []
        for _ in range(NEW_TOKENS):
            asked = torch.ones(1, len(text), dtype=torch.bool)
            now = replace(self._pass(torch.tensor([row])), prompt_mask=asked)
            with self.model.attached(), self.model.running(now):
                found = self.merged(input_ids=torch.tensor([text]), use_cache=False)
            scores.append(found.logits[0, -1].float())
            text.append(int(scores[-1].argmax()))
        return text[len(prompt) :], torch.stack(scores)

    def _shared(self, far: float) -> BaseModelError:
        """Rows change each other: by which layer, as far as that can be found."""
        where = _carrier(self.base, self.samples)
        if where is None:
            why = "positions or masks of a row depend on the whole pass"
        else:
            path, name = where
            why = f"'{name}' ('{path}') carries what it read in one row into the next"
        return BaseModelError(
            f"rows of one pass change each other's loss by {far:.1g} of its size: {why}",
            hint=f"PROPER trains many people's rows in one pass, so each must stay apart; {_OTHER}",
        )


def _alone(model: Any, sample: Encoded) -> Tensor:
    """The mean loss of one sample's answer by itself."""
    tokens = torch.tensor([sample.tokens])
    logits = model(input_ids=tokens, use_cache=False).logits[0, sample.prompt_tokens - 1 : -1]
    return token_nll(logits, tokens[0, sample.prompt_tokens :]).mean()


def _losses(batch: Batch, logits: Tensor) -> Tensor:
    return batch.by_row(token_nll(logits, batch.answers)) / torch.tensor(batch.answer_tokens)


@torch.no_grad()
def _noise(parameters: Any) -> None:
    """Values that are nowhere zero, so that every part has an effect."""
    generator = torch.Generator().manual_seed(SEED)
    for parameter in parameters:
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * NOISE)


def _compare(what: str, ours: Tensor, theirs: Tensor, trained: Sequence[Tensor]) -> None:
    """Losses [R] and the gradients of their differently weighted sum."""
    shares = torch.arange(1.0, len(ours) + 1)
    far = _distance(ours.detach(), theirs.detach())
    found, wanted = (
        torch.autograd.grad((losses * shares).sum(), trained, materialize_grads=True)
        for losses in (ours, theirs)
    )
    steep = max(_distance(f, w) for f, w in zip(found, wanted, strict=True))
    if far > TOLERANCE or steep > GRADIENT_TOLERANCE:
        raise BaseModelError(
            f"a packed training step of {what} is not that of its rows by themselves: losses differ "
            f"by {far:.1g} of their size, gradients by {steep:.1g}",
            hint=_OTHER,
        )


@torch.no_grad()
def _carrier(base: Any, samples: Sequence[Encoded]) -> tuple[str, str] | None:
    """Path and class of the first layer whose output for later rows changes with the first row."""
    other = Encoded(tuple((t + 17) % (VOCABULARY - 3) + 3 for t in samples[0].tokens), 1)
    rows = [samples, [other, *samples[1:]]]
    first = len(samples[0].tokens)
    seen: list[list[tuple[str, Tensor]]] = []
    for items in rows:
        outputs: list[tuple[str, Tensor]] = []
        batch = pack(items, range(len(items)))
        hooks = [
            module.register_forward_hook(_recorder(outputs, path, batch.input_ids.shape[1], first))
            for path, module in base.named_modules()
            if path
        ]
        try:
            with packed_attention(base):
                base(**packed_inputs(batch))
        finally:
            for hook in hooks:
                hook.remove()
        seen.append(outputs)
    for (path, one), (_, two) in zip(*seen, strict=False):
        if one.shape == two.shape and _distance(two, one) > TOLERANCE:
            return _holder(base, path)
    return None


def _holder(base: Any, path: str) -> tuple[str, str]:
    """Path and class of the layer that a linear or a norm, which keep nothing, is part of."""
    module = base.get_submodule(path)
    while type(module) is torch.nn.Linear or "Norm" in type(module).__name__:
        path = path.rpartition(".")[0]
        module = base.get_submodule(path)
    return path, type(module).__name__


def _recorder(
    outputs: list[tuple[str, Tensor]], path: str, length: int, first: int
) -> Callable[..., None]:
    def record(_module: torch.nn.Module, _: Any, output: Any) -> None:
        found = output[0] if isinstance(output, tuple) else output
        if isinstance(found, Tensor) and found.dim() == 3 and found.shape[:2] == (1, length):
            outputs.append((path, found[:, first:].detach().clone()))

    return record
