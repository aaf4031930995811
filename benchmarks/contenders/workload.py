"""Users to train: how many, how many samples each, how long, drawn at random from a seed.

Only shapes matter to speed, so tokens are random; lengths are all equal, drawn, or those of
real users in ../shared/data. As in training, a sample ends with a short answer that alone carries
loss.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from proper_model.data.users import TEST_FILE, read_users
from proper_model.errors import ConfigError
from proper_model.kernels.dropout import mix_seed
from proper_model.kernels.packing import Batch, Encoded
from proper_model.tasks.task import load_task
from proper_model.text.encoding import Encoder, PaddedBatch

Lengths = Literal["fixed", "ragged", "real"]
ROOT = Path(__file__).resolve().parents[2]
REAL_DATA = ROOT.parent / "shared" / "data"
TOKENIZER = ROOT.parent / "shared" / "models" / "mini-llama"
PAD, EOS, FIRST_TOKEN = 0, 1, 2  # random tokens start behind the special ones
ANSWERS = (2, 3, 4)  # tokens of an answer, the end included
SIGMA = 0.5  # of log-normal lengths, near that of the real users' items
LONGEST = 512


@dataclass(frozen=True)
class Workload:
    """What is trained: `samples` of everybody, of `tokens` each, which is a median where lengths are
    `ragged`. With real lengths `tokens` is not used, and `samples` caps a user's history.
    """

    size: str
    users: int
    samples: int
    tokens: int
    lengths: Lengths
    seed: int

    def in_words(self) -> str:
        """For whoever watches."""
        lengths = f"{self.tokens} tokens" if self.lengths == "fixed" else f"{self.lengths} lengths"
        return f"size {self.size}, users {self.users}, samples a user {self.samples}, {lengths}"


@dataclass(frozen=True)
class User:
    """One user's samples in order, and the seed of the user's own randomness."""

    samples: tuple[Encoded, ...]
    seed: int


class Ids:
    """As much of a tokenizer as hand-made samples need."""

    eos_token_id, pad_token_id, chat_template = EOS, PAD, None


@dataclass
class Counts:
    """What went through a base: rows, real and padded tokens, logits needed, passes."""

    samples: int = 0
    tokens: int = 0
    padded_tokens: int = 0
    logit_positions: int = 0
    passes: int = 0

    def add(self, samples: Sequence[Encoded], *, padded: int) -> None:
        """One pass of these rows, whose tokens with all padding are `padded`."""
        self.samples += len(samples)
        self.tokens += sum(len(sample.tokens) for sample in samples)
        self.padded_tokens += padded
        # An answer of n tokens needs n logits, whatever a contender computes.
        self.logit_positions += sum(sample.answer_tokens for sample in samples)
        self.passes += 1


class CountingEncoder(Encoder):
    """The engine's encoder; it notes what its batches held, so that no count is a guess."""

    def __init__(self) -> None:
        super().__init__(Ids(), max_prompt_tokens=LONGEST, max_answer_tokens=max(ANSWERS))
        self.counts = Counts()

    def batch(self, samples: Sequence[Encoded], *args: object, **kwargs: object) -> Batch:
        """The engine's packed batch, counted."""
        made = super().batch(samples, *args, **kwargs)  # type: ignore[arg-type]
        self.counts.add(samples, padded=made.input_ids.numel())
        return made

    def padded(self, samples: Sequence[Encoded], *args: object, **kwargs: object) -> PaddedBatch:
        """A padded batch, counted."""
        made = super().padded(samples, *args, **kwargs)  # type: ignore[arg-type]
        self.counts.add(samples, padded=made.input_ids.numel())
        return made


def make_users(work: Workload, vocabulary: int) -> list[User]:
    """The users of a workload; a user's samples depend on seed and position alone."""
    shapes = _real_shapes(work.samples) if work.lengths == "real" else None
    users = []
    for u in range(work.users):
        seed = mix_seed(work.seed, u)
        rng = random.Random(seed)
        if shapes is not None:
            lengths = shapes[u % len(shapes)]
        else:
            lengths = [_length(work, rng) for _ in range(work.samples)]
        users.append(User(tuple(_sample(n, vocabulary, rng) for n in lengths), seed))
    return users


def _length(work: Workload, rng: random.Random) -> int:
    if work.lengths == "fixed":
        return work.tokens
    drawn = round(rng.lognormvariate(math.log(work.tokens), SIGMA))
    return min(max(drawn, max(ANSWERS) + 1), LONGEST)


def _sample(length: int, vocabulary: int, rng: random.Random) -> Encoded:
    answer = rng.choice(ANSWERS)
    if length <= answer:
        raise ConfigError(f"a sample of {length} tokens has no room for a prompt")
    tokens = [rng.randrange(FIRST_TOKEN, vocabulary) for _ in range(length - 1)]
    return Encoded((*tokens, EOS), length - answer)


def _real_shapes(most: int) -> list[list[int]]:
    """Sample lengths of real test users, tokenized by the base they belong to."""
    from transformers import AutoTokenizer

    if not REAL_DATA.is_dir() or not TOKENIZER.is_dir():
        raise ConfigError(
            "real lengths need the users in ../shared/data and the base in ../shared/models",
            hint="fixed lengths need nothing",
        )
    encoder = Encoder(
        AutoTokenizer.from_pretrained(str(TOKENIZER)),
        max_prompt_tokens=LONGEST,
        max_answer_tokens=max(ANSWERS),
    )
    shapes = []
    for task_file in sorted((ROOT / "profiles" / "tasks").glob("*.toml")):
        folder, task = REAL_DATA / task_file.stem, load_task(str(task_file))
        for user in read_users(folder / TEST_FILE, task):
            recent = user.history[-most:]
            items = [encoder.encode(task.history_example(item)) for item in recent]
            if items:
                shapes.append([len(item.tokens) for item in items])
    # Users of one data set stand together in the files; a workload takes the first few.
    random.Random(0).shuffle(shapes)
    return shapes
