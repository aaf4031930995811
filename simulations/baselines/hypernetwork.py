"""A hypernetwork: one forward pass from a person's items to a LoRA, in the spirit of Profile-to-PEFT.

The network (`history_network`) is trained on pooled people in episodes: an item of a person is asked
under the LoRA that other items of the same person give, drawn anew each time, from one to all of them.
Some people are held back; the loss on their queries, with their histories given, decides when to stop.
A new person costs one pass over the own items and trains nothing.

Source: Profile-to-PEFT (arXiv 2510.16282; docs/method.md 2.4). DEVIATIONS:
    - a person is the set of own items as the frozen base sees them, not a text profile's embedding;
    - the network gives a code of 16 numbers for cores between learned factors, not whole A and B: a few
      hundred people cannot determine more;
    - LoRAs lie on the feed-forward, as those it is compared with do.

Over mini-llama 194,706 trained numbers, of which 138,240 are the factors A and B, and 16 for a
person.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from proper_model.engine import held_back_losses, load_checkpoint, save_checkpoint
from proper_model.engine.pooled_settings import PassTokens, PooledReport, PooledSettings
from proper_model.engine.pooled_training import PooledTraining
from proper_model.errors import TrainingError
from proper_model.evaluation import Prediction
from proper_model.kernels import Batch, Encoded, mix_seed
from proper_model.model import AdaptedModel
from proper_model.tasks import User
from proper_model.text import Encoder
from simulations.baselines.arm import Benchmark
from simulations.baselines.history_network import HistoryNetwork
from simulations.baselines.item_vectors import item_vectors
from simulations.baselines.under_pass import own_pass, predict_under, private_model

TARGETS = ("gate_proj", "up_proj", "down_proj")
RANK, ALPHA = 8, 8.0
HIDDEN, CODE = 64, 16
EPOCHS, PATIENCE, BATCH = 12, 3, 32
LEAST_STEPS = 100  # of an epoch: with few people, one pass over their items says little
ENCODER_RATE = 1e-3  # its inputs have one scale whatever the base, unlike the factors
MOST_ITEMS = 64  # of one episode's history


@dataclass(frozen=True)
class Hypernetwork:
    """A LoRA a test user, from a network that was trained on pooled people."""

    name: str = "hypernetwork"

    def predict(self, given: Benchmark) -> list[Prediction]:
        """One prediction a query.

        Raises:
            TrainingError: fewer than two pooled people with items, or training diverged.
            DataError: an item does not fit the task.
        """
        model = private_model(given, TARGETS, rank=RANK, alpha=ALPHA)
        network, _ = train_network(given, model)
        histories = _vectors(given, model, [_history(given, user) for user in given.users])
        with torch.no_grad():
            model.lora = network.lora(network.codes(histories))
        return predict_under(given, model, own_pass, name=self.name)


@dataclass(frozen=True)
class Person:
    """A pooled person: own items and queries, and what the base makes of the items [n, 2 d]."""

    items: tuple[Encoded, ...]
    queries: tuple[Encoded, ...]
    vectors: Tensor


def train_network(given: Benchmark, model: AdaptedModel) -> tuple[HistoryNetwork, PooledReport]:
    """The network, trained on the benchmark's pooled people, frozen.

    What was trained before is read from the benchmark's folder. Raises TrainingError.
    """
    network = HistoryNetwork(
        2 * model.base.get_output_embeddings().weight.shape[1],
        [(site.d_in, site.d_out) for site in model.sites],
        hidden=HIDDEN,
        code=CODE,
        rank=RANK,
        generator=torch.Generator().manual_seed(mix_seed(given.seed, 1)),
    ).to(model.device)
    place = given.folder / "network"
    found = load_checkpoint(place)
    if found is not None:
        network.load_state_dict(found[0])
        report = PooledReport(**found[1])
    else:
        trained, held_back = _people(given, model)
        network.standardize(torch.cat([person.vectors for person in trained]))
        report = Episodes(given, model, network, trained, held_back).train()
        save_checkpoint(place, network.state_dict(), report.as_dict())
    return network.requires_grad_(False), report


class Episodes:
    """The network's training: what an episode is, and how a state is judged."""

    def __init__(
        self,
        given: Benchmark,
        model: AdaptedModel,
        network: HistoryNetwork,
        trained: Sequence[Person],
        held_back: Sequence[Person],
    ) -> None:
        self.given, self.model, self.network = given, model, network
        self.trained, self.held_back = trained, held_back
        self.encoder: Encoder = given.release.encoder()
        # Who is asked, and which of the own items it is; None: a query, which no history holds.
        self.asked: list[tuple[int, int | None]] = []
        samples: list[Encoded] = []
        for p, person in enumerate(trained):
            own = (*enumerate(person.items), *((None, query) for query in person.queries))
            self.asked += [(p, place) for place, _ in own]
            samples += [sample for _, sample in own]
        passes = max(1, -(-LEAST_STEPS * BATCH // len(samples)))
        self.samples = list(enumerate(samples)) * passes

    def train(self) -> PooledReport:
        """Train to the best epoch. A killed run goes on from the benchmark's folder."""
        given, settings = self.given, self.given.release.settings
        optimizer = torch.optim.AdamW(
            [
                {"params": self.network.factors(), "lr": settings.group.learning_rate},
                {"params": self.network.encoder(), "lr": ENCODER_RATE},
            ],
            weight_decay=settings.weight_decay,
        )
        training = PooledTraining(
            self.encoder,
            self.samples,
            optimizer,
            self.batch_loss,
            self.person_losses,
            PooledSettings(
                epochs=EPOCHS,
                batch_size=BATCH,
                warmup_ratio=settings.warmup_ratio,
                max_grad_norm=settings.max_grad_norm,
                tokens_per_step=settings.tokens_per_step,
                patience=PATIENCE,
                seed=mix_seed(given.seed, 2),
            ),
            device=self.model.device,
            memory_bytes=given.memory_bytes,
            checkpoint=given.folder / "training",
        )
        return training.run(partial(given.progress, "hypernetwork"))

    def batch_loss(self, batch: Batch) -> tuple[Tensor, None]:
        """Every row under the LoRA of its own episode's history: [R]."""
        assert batch.seeds is not None
        drawn = zip(batch.slots.tolist(), batch.seeds, strict=True)
        histories = [self._support(number, seed) for number, seed in drawn]
        self.model.lora = self.network.lora(self.network.codes(histories))
        rows = torch.arange(len(batch.slots), device=self.model.device)
        batch = dataclasses.replace(batch, slots=rows)
        return self.model.answer_loss(batch, own_pass(rows)), None

    def _support(self, number: int, seed: int) -> Tensor:
        """Vectors of one to all of the other items of whoever is asked; none if there are none."""
        owner, place = self.asked[number]
        vectors = self.trained[owner].vectors
        others = [i for i in range(len(vectors)) if i != place]
        rng = random.Random(seed)
        size = rng.randint(min(1, len(others)), min(len(others), MOST_ITEMS))
        return vectors[rng.sample(others, size)]

    @torch.no_grad()
    def person_losses(self, tokens: PassTokens) -> Tensor:
        """Mean loss of every held-back person's queries, with the own history given: [P]."""
        histories = [person.vectors for person in self.held_back]
        self.model.lora = self.network.lora(self.network.codes(histories))
        rows = [(p, query) for p, person in enumerate(self.held_back) for query in person.queries]
        losses = held_back_losses(self.model, self.encoder, rows, own_pass, tokens.judging)
        own = losses.split([len(person.queries) for person in self.held_back])
        return torch.stack([values.mean() for values in own])


def _people(given: Benchmark, model: AdaptedModel) -> tuple[list[Person], list[Person]]:
    """Pooled people who train, and those who judge, drawn by seed. Raises TrainingError."""
    encoder, task = given.release.encoder(), given.task
    able = [user for user in given.pooled if user.history and user.queries]
    if len(able) < 2:
        raise TrainingError(
            f"{len(able)} pooled users have items and queries, a hypernetwork needs two at least",
            hint="pool more users",
        )
    random.Random(f"{given.seed}/hypernetwork").shuffle(able)
    count = max(1, round(given.release.settings.held_back_fraction * len(able)))
    items = [_history(given, user) for user in able]
    people = [
        Person(
            own,
            tuple(encoder.encode(task.query_example(q, training=True)) for q in user.queries),
            vectors,
        )
        for user, own, vectors in zip(able, items, _vectors(given, model, items), strict=True)
    ]
    return people[count:], people[:count]


def _history(given: Benchmark, user: User) -> tuple[Encoded, ...]:
    encoder = given.release.encoder()
    return tuple(encoder.encode(given.task.history_example(item)) for item in user.history)


def _vectors(
    given: Benchmark, model: AdaptedModel, people: Sequence[Sequence[Encoded]]
) -> list[Tensor]:
    tokens = given.release.settings.tokens_per_step
    return item_vectors(model, given.release.encoder(), people, tokens)
