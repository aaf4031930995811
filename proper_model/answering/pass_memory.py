"""How many tokens one pass of scoring or generation may hold."""

from __future__ import annotations

from proper_model.answering.batched import MAX_ROWS
from proper_model.base.config import size, text_config
from proper_model.engine.memory import free_bytes, tokens_within
from proper_model.engine.memory_budget import BYTES_PER_ADAPTER_NUMBER
from proper_model.model.adapted_model import AdaptedModel
from proper_model.model.answer_loss import CHUNK

# Full-width activations of one block that live at once without gradients: a block's input and
# output, queries, keys, values and their rotated copies; gate, up, their product and its parts.
LIVE_HIDDEN, LIVE_FFN = 8, 4


def inference_tokens(
    budget: int | None,
    model: AdaptedModel,
    *,
    users: int,
    longest: int,
    tokens: int,
    answer: int = 1,
    passes: int = 1,
) -> int:
    """Tokens of one pass of scoring or generation, at most `tokens`, within `budget` bytes.

    Args:
        budget: bytes beside the base; None: what a GPU has free, and no limit on a CPU.
        users: adapters that are loaded, of which nothing but the weights is kept.
        longest: tokens of the longest row, its answer included.
        answer: tokens of the longest answer, all of which have logits at once.
        passes: how many are mixed, each with keys and values of its own.
    """
    if budget is None:
        budget = free_bytes(model.device)
    if budget is None:
        return tokens
    sites, dtype = model.sites, model.base.dtype
    config = text_config(model.base.config)
    hidden, ffn = size(config, "hidden_size"), size(config, "intermediate_size")
    heads = size(config, "num_attention_heads")
    key_width = getattr(config, "num_key_value_heads", heads) * getattr(
        config, "head_dim", hidden // heads
    )
    cache = passes * 2 * len({site.layer for site in sites}) * key_width
    # Attention holds a score for every earlier token of the row, twice while it is normalized.
    numbers = cache + LIVE_HIDDEN * hidden + LIVE_FFN * ffn + 2 * heads * longest
    rank = model.structure.rank
    adapters = users * sum(rank * (site.d_in + site.d_out) for site in sites)
    vocabulary = len(model.base.get_output_embeddings().weight)
    logits = min(MAX_ROWS * answer * vocabulary, max(CHUNK, answer * vocabulary))
    wide = max(dtype.itemsize, BYTES_PER_ADAPTER_NUMBER)  # what losses are computed in
    copies = 2 * wide if wide == dtype.itemsize else dtype.itemsize + 2 * wide
    if passes > 1:
        # Of each pass logits, log-probabilities and these weighed; and their mixture.
        copies = passes * (dtype.itemsize + 2 * wide) + wide
    return tokens_within(
        budget,
        adapters * BYTES_PER_ADAPTER_NUMBER + logits * copies,
        numbers * dtype.itemsize,
        tokens=tokens,
        least=longest,
    )
