"""The page on integrations runs, where every framework that it shows is installed."""

from __future__ import annotations

from pathlib import Path

import pytest
from pages import ROOT, run_python

for framework in ("lightning", "transformers", "accelerate", "torchmetrics", "tensorboard", "matplotlib"):
    pytest.importorskip(framework)


def test_the_page_on_integrations_runs(folder_of_pages: Path, names_of_pages: dict[str, object]) -> None:
    run_python(ROOT / "docs" / "integrations.md", names_of_pages)
    assert (folder_of_pages / "runs" / "best").is_dir() and list((folder_of_pages / "runs" / "tensorboard").iterdir())
