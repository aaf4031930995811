"""LaMP's metrics, intervals over users, and an exact test for few items."""
