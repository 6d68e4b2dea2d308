"""What the tests of training share."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def tiny_recipe() -> Path:
    """A recipe file whose stages take seconds."""
    return Path(__file__).with_name("tiny.toml")
