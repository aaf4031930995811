"""How many operations the training of a workload needs, whatever a contender computes."""

from __future__ import annotations

from collections.abc import Iterable

from benchmarks.kinds import Shape
from proper_model.kernels.packing import Encoded


def linear_weights(shape: Shape) -> int:
    """Weights of all blocks' linears."""
    keys = shape.hidden // shape.heads * shape.kv_heads
    attention = 2 * shape.hidden * (shape.hidden + keys)
    return shape.layers * (attention + 3 * shape.hidden * shape.ffn)


def useful(samples: Iterable[Encoded], shape: Shape) -> int:
    """Floating-point operations of one forward and backward pass of samples over a frozen base.

    A product with a weight costs two operations a weight and token forward and two backward, for
    the gradient of its input; a frozen weight has no gradient of its own. So for a sample of T
    tokens, of which K carry loss:

        linears    4 * weights of all blocks' linears * T
        attention  6 * layers * hidden * T (T + 1): two products forward over the T (T + 1) / 2
                   pairs that a causal mask leaves, two operations each, and twice that backward
        head       4 * hidden * vocabulary * K

    As is usual, all blocks count alike. Nothing trains below the feed-forward part of the first block, so
    an engine may leave out what goes back from there, a part of the whole that `unneeded` says; the
    engine does, while the compiled loop and the limit do not.

    Norms, rotation and softmax are left out, as is usual. So are adapters, experts, routing and
    padding: a contender gains nothing here by work that it does beside the base's.
    """
    found = 0
    for sample in samples:
        tokens = len(sample.tokens)
        found += 4 * linear_weights(shape) * tokens
        found += 6 * shape.layers * shape.hidden * tokens * (tokens + 1)
        found += 4 * shape.hidden * shape.vocabulary * sample.answer_tokens
    return found


def unneeded(shape: Shape) -> float:
    """Share of all linears' operations that training may leave out: back to inputs of the first block's
    attention, gate and up, below which nothing trains.
    """
    attention = linear_weights(shape) // shape.layers - 3 * shape.hidden * shape.ffn
    return 2 * (attention + 2 * shape.hidden * shape.ffn) / (4 * linear_weights(shape))
