"""Where people's tokens go, and where their embeddings lie (the paper's figures 4 and 5).

Mean weights of each person's own items, per expert, in the router where people differ most: expert n
of one router has nothing to do with expert n of another, so they are never averaged over routers
(docs/method.md 1.6). Clusters are those of all routers' weights side by side. Simulation only: mean
weights tell a person's group and never leave a device.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from client.person.state import PersonalState
from proper_model.answering import routing_weights
from proper_model.model import group_pass
from proper_model.release.contents import Release
from proper_model.tasks import User
from simulations.experiments.benchmark import Measured
from simulations.experiments.benchmark_schema import Routing

CLUSTERS = 5
LEAST_PEOPLE = 6  # for a picture of neighbours
MOST_ITEMS = 32  # of a person; means settle soon
Array = NDArray[np.float64]


def routing_views(measured: Measured) -> list[Routing]:
    """One view a variant, from the first seed and fold."""
    views = []
    for variant in measured.plan.variants:
        cell = measured.first(variant)
        trained = "stage3" if "stage3" in variant.arms else "stage2"
        release = cell.stages.release
        views.append(view(release, cell.users, cell.states(trained), variant.name))
        cell.stages.forget()
    return views


def view(
    release: Release, users: Sequence[User], states: dict[str, PersonalState], name: str
) -> Routing:
    """Weights and embeddings of people with items, over one release."""
    asked = [user for user in users if user.history and states[user.user_id].embedding is not None]
    weights = mean_weights(release, asked, states)  # [people, routers, experts]
    router = int(weights.var(0).sum(-1).argmax()) if asked else 0
    points: list[tuple[float, float]] = []
    clusters: list[int] = []
    if len(asked) >= LEAST_PEOPLE and release.structure.router_user:
        embedded = np.stack([_layer_mean(states[user.user_id]) for user in asked])
        points = neighbours(embedded, seed=release.seed)
        clusters = clustered(weights.reshape(len(asked), -1), seed=release.seed)
    return Routing(
        variant=name,
        router=_router_name(release, router),
        weights=weights[:, router].tolist() if asked else [],
        points=points,
        clusters=clusters,
    )


def mean_weights(
    release: Release, users: Sequence[User], states: dict[str, PersonalState]
) -> Array:
    """Every person's mean over tokens, then items: `[people, routers, experts]`."""
    model, encoder, task = release.model(), release.encoder(), release.task
    rows = []
    for user in users:
        embedding = states[user.user_id].embedding
        assert embedding is not None
        own: Tensor = embedding[None].to(model.device)
        items = user.history[-MOST_ITEMS:]
        samples = [encoder.encode(task.history_example(item)) for item in items]
        batch = encoder.batch(samples, [0] * len(samples))
        weights = routing_weights(model, batch, group_pass(batch.slots, own))
        rows.append(weights.double().mean(1).cpu().numpy())
    shape = (0, len(model.sites), release.structure.experts)
    return np.stack(rows) if rows else np.zeros(shape)


def neighbours(points: Array, *, seed: int) -> list[tuple[float, float]]:
    """A t-SNE of points `[n, width]` into the plane; the same seed gives the same picture."""
    from sklearn.manifold import TSNE

    perplexity = min(30.0, (len(points) - 1) / 3)
    found = TSNE(2, perplexity=perplexity, init="pca", random_state=seed).fit_transform(points)
    return [(float(x), float(y)) for x, y in found]


def clustered(points: Array, *, seed: int) -> list[int]:
    """k-means clusters of points, at most `CLUSTERS` and as many as there are different points."""
    from sklearn.cluster import KMeans

    count = min(CLUSTERS, len(np.unique(points.round(6), axis=0)))
    return [int(c) for c in KMeans(count, n_init=10, random_state=seed).fit(points).labels_]


def _layer_mean(state: PersonalState) -> Array:
    assert state.embedding is not None
    mean: Array = state.embedding.double().mean(0).cpu().numpy()
    return mean


def _router_name(release: Release, place: int) -> str:
    sites = release.model().sites
    return str(sites[place].path)


def hidden_means(release: Release, texts: Sequence[str]) -> Array:
    """The base's last hidden states, averaged over each text's tokens: `[texts, width]`."""
    encoder, device = release.encoder(), next(release.base.parameters()).device
    rows = []
    with torch.no_grad():
        for text in texts:
            ids = encoder.text_ids(text) or [release.tokenizer.eos_token_id]
            limit = release.settings.max_prompt_tokens
            tokens = torch.tensor([ids[:limit]], device=device)
            states = release.base(input_ids=tokens, output_hidden_states=True).hidden_states[-1]
            rows.append(states[0].double().mean(0).cpu().numpy())
    return np.stack(rows)
