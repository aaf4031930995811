"""A trained model's answers: in batches, streamed, and the routing weights behind them."""
