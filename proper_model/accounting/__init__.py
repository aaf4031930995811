"""What (epsilon, delta) a mechanism of differential privacy comes to: asked of dp-accounting."""

from proper_model.accounting import accountant
from proper_model.accounting.accountant import Spent, account

__all__ = ["Spent", "account", "accountant"]
