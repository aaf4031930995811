"""How many numbers the parts of a release hold, by what trains them (docs/method.md 1.3)."""

from __future__ import annotations

from proper_model.release.contents import Release

ROUTERS = {"text": "text_routers", "user": "user_routers", "lora": "lora_routers"}


def parameters(release: Release) -> dict[str, int]:
    """Counts by part, read off the tensors; `user_lora` and `user_embedding` are one person's.

    `user_embeddings` are those of all pooled people that were trained, which stay on the server.
    """
    counts = dict.fromkeys(("experts", *ROUTERS.values()), 0)
    for name, tensor in release.shared.items():
        if name.startswith("experts."):
            counts["experts"] += tensor.numel()
        elif (kind := ROUTERS.get(name.rpartition(".")[2])) and name.startswith("routers."):
            counts[kind] += tensor.numel()
    structure = release.structure
    embedding = release.mean_embedding.numel()
    trained = int(release.notes.get("users_trained", 0))
    return {
        "base": sum(parameter.numel() for parameter in release.base.parameters()),
        "population_lora": sum(tensor.numel() for tensor in release.population.values()),
        **counts,
        "user_embeddings": embedding * trained,
        "user_lora": counts["experts"] // structure.experts,
        "user_embedding": embedding,
    }
