"""What the tests of training share."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def tiny_recipe() -> Path:
    """A recipe file whose stages take seconds."""
    return Path(__file__).with_name("tiny.toml")


THEN = """
[[then]]
part = "maps"
[then.predictor]
trained = "decoder"
crop = 48
steps = 3

[[then]]
part = "settled"
[then.predictor]
trained = "competition"
passes = 2
"""


@pytest.fixture(scope="session")
def tiny_parts(tmp_path_factory: pytest.TempPathFactory, tiny_recipe: Path) -> Path:
    """The same, its predictor trained in three parts."""
    path = tmp_path_factory.mktemp("recipe") / "parts.toml"
    path.write_text(tiny_recipe.read_text(encoding="utf-8") + THEN, encoding="utf-8")
    return path
