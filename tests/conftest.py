from __future__ import annotations

import copy
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import huggingface_hub.constants as client
import pytest
import torch
import torch.nn.functional as F
from fake_hub import FakeHub, serving
from huggingface_hub import file_download
from torch import Tensor, nn

from relqa_loss import RelationalLoss, distort

PhotoMaker = Callable[..., Tensor]
PairMaker = Callable[..., tuple[Tensor, Tensor]]

# Frameworks have a set-up of their own: `make test-integrations`, or this folder by name, `pytest tests/integrations`.
collect_ignore = ["integrations"]

CANDIDATE = "RELQA_TEST_WEIGHTS"
"""Environment variable: a weights folder to be tested in place of the bundled weights, e.g. before a release."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--empty-environment",
        action="store_true",
        help="tests/test_wheel.py: install every dependency of the wheel anew, from the package index",
    )


def pytest_report_header() -> str:
    folder = os.environ.get(CANDIDATE)
    return "weights under test: " + (f"{folder} ({CANDIDATE} is set)" if folder else "the bundled ones")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu") is not None:
            item.add_marker(pytest.mark.skip(reason=f"gpu: {item.name} needs a CUDA device"))


@pytest.fixture(autouse=True)
def fixed_seed() -> None:
    torch.manual_seed(20260502)


@pytest.fixture(scope="session")
def repository() -> Path:
    return Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def make_photos() -> PhotoMaker:
    return photo_like


@pytest.fixture(scope="session")
def make_loss() -> Callable[..., RelationalLoss]:
    """``make_loss(**settings)``: a loss with the weights under test."""
    folder = os.environ.get(CANDIDATE)

    def make(**settings: Any) -> RelationalLoss:
        return RelationalLoss(folder, **settings) if folder else RelationalLoss(**settings)

    return make


@pytest.fixture(scope="session")
def loss_fn(make_loss: Callable[..., RelationalLoss]) -> RelationalLoss:
    """The shipped case, float32. Shared: tests leave it as it is."""
    return make_loss()


@pytest.fixture(scope="session")
def loss_fn64(loss_fn: RelationalLoss) -> RelationalLoss:
    """The same in float64."""
    return copy.deepcopy(loss_fn).double()


@pytest.fixture(scope="session")
def make_pair() -> PairMaker:
    return photo_pair


@pytest.fixture
def photos() -> Tensor:
    return photo_like(2, 64, 96)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def hub(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """The stand-in, with the client of this process turned to it: it has read its environment long ago."""
    with serving() as hub:
        monkeypatch.setattr(client, "ENDPOINT", hub.endpoint)
        template = hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(client, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        # Clients before 1.0 keep a copy here.
        monkeypatch.setattr(file_download, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)
        monkeypatch.setattr(client, "HF_HUB_CACHE", str(cache))
        monkeypatch.setattr(client, "HF_TOKEN_PATH", str(tmp_path / "token"))
        # The storage behind hf_xet speaks a protocol of its own, which the stand-in does not.
        monkeypatch.setattr(client, "HF_HUB_DISABLE_XET", True, raising=False)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        yield hub


@pytest.fixture
def folder_of_pages(make_photos: PhotoMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with the files that README and the documentation name."""
    from relqa_loss.images import write_image

    monkeypatch.chdir(tmp_path)
    pictures = make_photos(3, 48, 64)
    for name, severity in (("original", 0.0), ("restored", 0.3), ("other", 0.8)):
        write_image(tmp_path / f"{name}.png", distort(pictures[:1], "jpeg", severity)[0])
    for name, severity in (("originals", 0.0), ("outputs-1000", 0.8), ("outputs-2000", 0.2)):
        (tmp_path / name).mkdir()
        for k, picture in enumerate(distort(pictures, "gaussian_blur", severity)):
            write_image(tmp_path / name / f"{k}.png", picture)
    return tmp_path


@pytest.fixture
def names_of_pages(make_photos: PhotoMaker) -> dict[str, object]:
    """What docs/index.md promises that the pages may use without making it."""
    ref = make_photos(2, 32, 32)
    return {
        "ref": ref,
        "pred": distort(ref, "rgb_noise", 0.3).requires_grad_(),
        "original": ref,
        "a": distort(ref, "jpeg", 0.3),
        "b": distort(ref, "gaussian_blur", 0.5),
        "mask": torch.rand(2, 1, 32, 32),
        "l1": nn.L1Loss(),
        "model": nn.Conv2d(3, 3, 3, padding=1),
        "loader": [(distort(ref, "rgb_noise", 0.3), ref)],
    }


def photo_like(
    batch: int = 2, height: int = 64, width: int = 64, seed: int = 0, dtype: torch.dtype = torch.float32
) -> Tensor:
    """(B, 3, H, W) in [0, 1]: what matters of photographs, made from a seed.

    Texture with the 1 / frequency amplitude of natural scenes, correlated colour channels, a smooth gradient on the
    left (a sky) and a few hard-edged discs.
    """
    generator = torch.Generator().manual_seed(seed)
    fy = torch.fft.fftfreq(height)[:, None]
    fx = torch.fft.rfftfreq(width)[None, :]
    amplitude = (fy**2 + fx**2).sqrt().clamp(min=1 / max(height, width)).reciprocal()
    phase = torch.rand(batch, 3, height, width // 2 + 1, generator=generator) * 2 * math.pi
    texture = torch.fft.irfft2(torch.polar(amplitude.expand_as(phase), phase), s=(height, width))
    texture = texture / texture.std(dim=(-2, -1), keepdim=True)
    texture = 0.8 * texture.mean(dim=1, keepdim=True) + 0.3 * texture

    y = torch.linspace(0, 1, height)[:, None]
    x = torch.linspace(0, 1, width)[None, :]
    tint = torch.rand(batch, 3, 1, 1, generator=generator)
    sky = 0.35 + 0.3 * tint + 0.25 * y
    images = torch.where(x < 0.4, sky.expand(batch, 3, height, width), 0.45 + 0.14 * texture)
    for _ in range(4):
        centre_y, centre_x, radius = torch.rand(3, batch, 1, 1, 1, generator=generator)
        colour = torch.rand(batch, 3, 1, 1, generator=generator)
        disc = (y - centre_y) ** 2 + (x - centre_x) ** 2 < (0.05 + 0.1 * radius) ** 2
        images = torch.where(disc, 0.7 * colour + 0.3 * images, images)
    return images.clamp(0, 1).to(dtype)


def photo_pair(
    batch: int = 2, height: int = 48, width: int = 64, seed: int = 0, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """(pred, ref): a photograph, and the same one blurred, noisy and a little brighter, so that every path is alive."""
    ref = photo_like(batch, height, width, seed=seed)
    blurred = F.avg_pool2d(F.pad(ref, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    noise = torch.randn(ref.shape, generator=torch.Generator().manual_seed(seed + 1))
    return (blurred + 0.03 * noise + 0.02).clamp(0, 1).to(dtype), ref.to(dtype)
