"""Integrations with training frameworks: each file imports its framework, nothing else in the package imports them."""
