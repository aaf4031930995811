"""The tensors of shared.safetensors that a structure and its sites imply, by name and shape.

    experts.SITE.A [N, r, i]   experts.SITE.B [N, o, r]
    routers.SITE.text [N, i]   routers.SITE.user [N, e]   routers.SITE.lora [N, o]
    routers.tied.user [N, e]   mean_embedding [tables, e]

What of the routers exists follows from the preset (`model.AdaptedModel`). Prototypes `[K, tables, e]`
stand apart, since K is the publisher's.
"""

from __future__ import annotations

from collections.abc import Sequence

from proper_model.base.sites import Site
from proper_model.settings.presets import EmbeddingTables, RouterSharing, RouterText, Structure


def expected_shared(structure: Structure, sites: Sequence[Site]) -> dict[str, tuple[int, ...]]:
    """Shape by name of everything but prototypes and counts."""
    n, r, e = structure.experts, structure.rank, structure.embedding_dim
    tied = structure.router_sharing is RouterSharing.TIED
    expected: dict[str, tuple[int, ...]] = {}
    for site in sites:
        expected[f"experts.{site.path}.A"] = (n, r, site.d_in)
        expected[f"experts.{site.path}.B"] = (n, site.d_out, r)
        router = f"routers.{site.path}"
        if structure.router_text is not RouterText.NONE:
            expected[f"{router}.text"] = (n, site.d_in)
        if structure.router_user and not tied:
            expected[f"{router}.user"] = (n, e)
        if structure.has_lora_router:
            expected[f"{router}.lora"] = (n, site.d_out)
    if tied:
        expected["routers.tied.user"] = (n, e)
    one = structure.embedding_tables is EmbeddingTables.ONE
    expected["mean_embedding"] = (1 if one else len({site.layer for site in sites}), e)
    return expected
