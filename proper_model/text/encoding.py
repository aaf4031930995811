"""Text to tokens: prompts, answers and batches of them.

A sample is `prompt`, one space, `answer`, end-of-sequence; only the answer and the end carry loss
(eq. 4). No control token comes out of either's text (`plain_text`). Training and scoring run packed
batches without padding (`packing`); only generation, where every row grows by a token a step, pads.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from proper_model.errors import BaseModelError
from proper_model.kernels.packing import Batch, Encoded, pack
from proper_model.tasks.retrieval import Room
from proper_model.tasks.task import Example
from proper_model.text.conversation import NEXT_TURN, ChatMessage, plain_form
from proper_model.text.plain_text import PlainText

# Below this a pass is too small to be worth its launches (docs/performance.md 2: compute overtakes
# reading the weights at 155 to 180 tokens).
LEAST_TOKENS = 256
# Where rows are padded, at least this share of a larger pass is not padding.
FILL = 0.9


@dataclass(frozen=True)
class PaddedBatch:
    """Left-padded rows of unequal length side by side, as decoding step by step needs them.

    Attributes:
        input_ids, attention_mask, position_ids: `[R, T]`.
        labels: `[R, T]`, -100 outside answers.
        prompt_mask: `[R, T]` bool, true on prompt tokens.
        slots: `[R]`, the user slot of every row.
        answer_width: longest answer, in tokens.
    """

    input_ids: Tensor
    attention_mask: Tensor
    position_ids: Tensor
    labels: Tensor
    prompt_mask: Tensor
    slots: Tensor
    answer_width: int


class Encoder:
    """Tokenizes examples for one base model.

    A base with a chat template is asked through it. A prompt longer than `max_prompt_tokens` loses
    tokens from its middle: templates keep the question at the start and the cue at the end. One
    with own items before the question may have `retrieval_tokens` more.
    """

    def __init__(
        self,
        tokenizer: Any,
        *,
        max_prompt_tokens: int,
        max_answer_tokens: int,
        retrieval_tokens: int = 0,
    ) -> None:
        if tokenizer.eos_token_id is None:
            raise BaseModelError(
                "the tokenizer has no end-of-sequence token",
                hint="set eos_token in tokenizer_config.json; answers must be able to end",
            )
        self.tokenizer = tokenizer
        self.eos = int(tokenizer.eos_token_id)
        pad = tokenizer.pad_token_id
        self.pad = int(pad) if pad is not None else self.eos
        self.max_prompt_tokens = max_prompt_tokens
        self.max_answer_tokens = max_answer_tokens
        self.retrieval_tokens = retrieval_tokens
        self.has_template = bool(getattr(tokenizer, "chat_template", None))
        self._plain = PlainText(tokenizer)

    def prompt(self, text: str, *, lines: str = "") -> list[int]:
        """Token ids of a prompt, with own items before it if there are `lines`; bounded."""
        return self._cut(self._prompt_ids(lines + text), lines)

    def conversation(self, messages: Sequence[ChatMessage]) -> list[int]:
        """Token ids of a conversation (`conversation.in_order`), uncut, up to where the answer begins.

        In the base's chat template, or in `plain_form` where it has none. Raises BaseModelError for
        a template that fails on it.
        """
        if self.has_template:
            found = self._plain.conversation_ids(messages)
        else:
            found = self._plain.before + self._plain.ids(plain_form(messages))
        return found or [self.eos]  # as of a prompt

    @property
    def turn_ends(self) -> tuple[str, ...]:
        """Texts at which an answer in a conversation is over, beside the end of sequence."""
        return () if self.has_template else (NEXT_TURN,)

    @property
    def turn_end_tokens(self) -> tuple[int, ...]:
        """Tokens at which an answer in a conversation is over, beside the end of sequence."""
        end = self._plain.turn_end if self.has_template else None
        return () if end is None else (end,)

    @property
    def room(self) -> Room:
        """What own items before a question may take."""
        return Room(
            question=self.max_prompt_tokens,
            prompt=self.max_prompt_tokens + self.retrieval_tokens,
            prompt_tokens=lambda text: len(self._prompt_ids(text)),
            line_tokens=lambda text: len(self.text_ids(text)),
        )

    def text_ids(self, text: str) -> list[int]:
        """Token ids of a text by itself, uncut."""
        return self._plain.ids(text)

    def encode(self, example: Example) -> Encoded:
        """Prompt, answer and end. The answer is cut at `max_answer_tokens`, the end included."""
        prompt = self._prompt_ids(example.asked)
        answer = self._answer_ids(example, prompt)
        answer = answer[: self.max_answer_tokens - 1] + [self.eos]
        prompt = self._cut(prompt, example.lines)
        return Encoded(tuple(prompt + answer), len(prompt))

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of generated token ids, special tokens removed, stripped (docs/method.md 4.3)."""
        return self.written(tokens).strip()

    def written(self, tokens: Sequence[int]) -> str:
        """As `decode`, with the white space around the text, behind which more of it may follow."""
        return str(self.tokenizer.decode(tokens, skip_special_tokens=True))

    def _cut(self, prompt: list[int], lines: str) -> list[int]:
        more = self.retrieval_tokens if lines else 0
        return _cut_middle(prompt, self.max_prompt_tokens + more)

    def _prompt_ids(self, text: str) -> list[int]:
        # A chat template writes its own special tokens.
        if self.has_template:
            found = self._plain.turn_ids(text)
        else:
            found = self._plain.before + self._plain.ids(text)
        # Of some texts nothing is left; the first answer token must follow something all the same.
        return found or [self.eos]

    def _answer_ids(self, example: Example, prompt: list[int]) -> list[int]:
        """The answer's ids behind the ids of its whole prompt."""
        plain = self._plain
        answer_text = example.answer if self.has_template else " " + example.answer
        # Tokenize jointly where the prompt survives as a prefix: sentencepiece puts a spurious
        # space before a text tokenized on its own.
        if not self.has_template:
            joint = plain.before + plain.ids(example.asked + answer_text)
        elif plain.is_free(example.asked) and plain.is_free(answer_text):
            joint = plain.raw(plain.asked(example.asked) + answer_text)
        else:
            joint = []
        if joint[: len(prompt)] == prompt:
            return joint[len(prompt) :]
        return plain.ids(answer_text)

    def batch(
        self,
        samples: Sequence[Encoded],
        slots: Sequence[int],
        *,
        seeds: Sequence[int] | None = None,
        device: torch.device | str = "cpu",
    ) -> Batch:
        """One packed pass of samples: what training and scoring run."""
        return pack(samples, slots, seeds=seeds, device=device)

    def padded(
        self,
        samples: Sequence[Encoded],
        slots: Sequence[int],
        *,
        device: torch.device | str = "cpu",
    ) -> PaddedBatch:
        """Samples left-padded to one length: what generation starts from."""
        width = max(len(s.tokens) for s in samples)
        shape = (len(samples), width)
        input_ids = torch.full(shape, self.pad)
        mask = torch.zeros(shape, dtype=torch.long)
        labels = torch.full(shape, -100)
        prompt_mask = torch.zeros(shape, dtype=torch.bool)
        for row, sample in enumerate(samples):
            start = width - len(sample.tokens)
            tokens = torch.tensor(sample.tokens)
            input_ids[row, start:] = tokens
            mask[row, start:] = 1
            labels[row, start + sample.prompt_tokens :] = tokens[sample.prompt_tokens :]
            prompt_mask[row, start : start + sample.prompt_tokens] = True
        return PaddedBatch(
            input_ids=input_ids.to(device),
            attention_mask=mask.to(device),
            position_ids=(mask.cumsum(1) - 1).clamp(min=0).to(device),
            labels=labels.to(device),
            prompt_mask=prompt_mask.to(device),
            slots=torch.tensor(list(slots), device=device),
            answer_width=max(s.answer_tokens for s in samples),
        )


def _cut_middle(tokens: list[int], limit: int) -> list[int]:
    if len(tokens) <= limit:
        return tokens
    tail = min(24, limit // 3)
    return tokens[: limit - tail] + tokens[-tail:]


def padded_chunks(lengths: Sequence[int], budget: int, *, fill: float = 0.0) -> Iterator[list[int]]:
    """Indices of `lengths`, sorted by length and cut so that rows x longest <= budget tokens.

    A sample longer than the budget gets a chunk of its own. With `fill`, a chunk of a pass's worth
    of tokens also ends where the next row would leave less than that share of it unpadded: rows of
    very different lengths are cheaper apart.
    """
    order = sorted(range(len(lengths)), key=lambda i: lengths[i])
    chunk: list[int] = []
    real = 0
    for index in order:
        length = lengths[index]
        padded = (len(chunk) + 1) * length
        sparse = real + length < fill * padded and len(chunk) * lengths[chunk[-1]] >= LEAST_TOKENS
        if chunk and (padded > budget or sparse):
            yield chunk
            chunk, real = [], 0
        chunk.append(index)
        real += length
    if chunk:
        yield chunk


def epoch_order(count: int, *, seed: int, epoch: int) -> list[int]:
    """A permutation of range(count), a function of seed and epoch alone."""
    order = list(range(count))
    random.Random(f"{seed}/{epoch}").shuffle(order)
    return order
