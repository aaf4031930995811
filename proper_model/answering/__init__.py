"""A trained model's answers: in batches, streamed, and the routing weights behind them."""

from proper_model.answering.batched import Answer, Question, answer_queries, label_starts
from proper_model.answering.pass_memory import inference_tokens
from proper_model.answering.routing_reader import routing_weights
from proper_model.answering.sampling import SEEDS, Sampling, seeded
from proper_model.answering.streaming import Ended, stream

__all__ = [
    "Answer", "Ended", "Question", "SEEDS", "Sampling", "answer_queries", "inference_tokens",
    "label_starts", "routing_weights", "seeded", "stream",
]
