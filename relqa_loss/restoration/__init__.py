"""Restorers trained with a loss, and what metrics that took no part say of them."""
