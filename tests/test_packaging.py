"""What the project says of itself: version and changelog, extras, versions of Python, the hooks."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
from packaging.requirements import Requirement
from packaging.version import Version

import relqa_loss

ENTRY = re.compile(r"^## (?P<version>\d+\.\d+\.\d+)(?P<rest> .*)?$", flags=re.MULTILINE)


@pytest.fixture(scope="module")
def project(repository: Path) -> dict[str, Any]:
    return dict(tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))["project"])


@pytest.fixture(scope="module")
def extras(project: dict[str, Any]) -> dict[str, list[str]]:
    return dict(project["optional-dependencies"])


def test_the_changelogs_first_entry_is_the_version(repository: Path) -> None:
    entries = list(ENTRY.finditer((repository / "CHANGELOG.md").read_text(encoding="utf-8")))
    assert entries[0]["version"] == relqa_loss.__version__
    versions = [Version(entry["version"]) for entry in entries]
    assert versions == sorted(set(versions), reverse=True)
    dated = [re.fullmatch(r" \((unreleased|\d{4}-\d{2}-\d{2})\)", entry["rest"] or "") for entry in entries]
    assert all(dated)
    assert all(found is not None and found[1] != "unreleased" for found in dated[1:])


def test_every_extra_that_the_project_names_exists(repository: Path, extras: dict[str, list[str]]) -> None:
    sources = [*(repository / "relqa_loss").rglob("*.py"), *repository.glob("*.md"), *repository.glob("docs/**/*.md")]
    named = {
        extra
        for path in [*sources, repository / "Makefile"]
        for found in re.findall(r"(?:relqa_loss|-e \"\.|install \"\.)\[([\w,-]+)\]", path.read_text(encoding="utf-8"))
        for extra in found.split(",")
    }
    assert {"images", "figures", "benchmark", "docs", "dev"} <= named <= extras.keys()


def test_every_extra_is_documented(repository: Path, extras: dict[str, list[str]]) -> None:
    text = (repository / "docs" / "install.md").read_text(encoding="utf-8")
    first_cells = re.findall(r"^\| (`[^|]+`) \|", text, flags=re.MULTILINE)
    assert set(re.findall(r"`([\w-]+)`", " ".join(first_cells))) == extras.keys()


def test_this_python_and_torch_are_claimed(project: dict[str, Any]) -> None:
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert sys.version_info >= (3, 11) and project["requires-python"] == ">=3.11"
    claimed = {text.rpartition(" :: ")[2] for text in project["classifiers"] if "Python :: 3." in text}
    assert claimed == {"3.11"} or python in claimed
    needs = {(one := Requirement(text)).name: one.specifier for text in project["dependencies"]}
    assert Version(torch.__version__).base_version in needs["torch"]


def test_hooks_use_the_ruff_of_the_checks(repository: Path, extras: dict[str, list[str]]) -> None:
    text = (repository / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    pinned = set(re.findall(r'"ruff==([\d.]+)"', text))
    wanted = next(one for text in extras["dev"] if (one := Requirement(text)).name == "ruff")
    assert len(pinned) == 1 and pinned <= set(wanted.specifier.filter(pinned))


def test_the_hooks_configuration_is_valid(repository: Path) -> None:
    pytest.importorskip("pre_commit")
    command = [sys.executable, "-m", "pre_commit", "validate-config", str(repository / ".pre-commit-config.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
