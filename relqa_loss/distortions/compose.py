"""One operator on a batch: its outcome, confined to a region."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Generator, Tensor

from ..validation import check_images, unknown_name
from .bank import by_name
from .draws import Randomness
from .recipe import Recipe
from .record import Distortion
from .regions import NESTED, REGIONS, draw_region
from .warp import at_rest, warp


def table_of(distortions: Sequence[Distortion]) -> dict[str, Distortion]:
    """The operators by name, in order; ValueError for none at all or for two of one name."""
    table = {distortion.name: distortion for distortion in distortions}
    if not table:
        raise ValueError("distortions must hold at least one operator, got none")
    if len(table) != len(distortions):
        raise ValueError(f"distortions must have distinct names, got {[one.name for one in distortions]}")
    return table


def resolve(distortion: str | Distortion) -> Distortion:
    """The operator itself, or the one of the bank with this name; ValueError if there is none."""
    if isinstance(distortion, Distortion):
        return distortion
    if isinstance(distortion, str):
        return by_name(distortion)
    raise TypeError(f"a distortion must be a name or a Distortion, got {type(distortion).__name__}")


def check_generator(generator: Generator, images: Tensor) -> None:
    """Raise unless ``generator`` is a torch.Generator on the device of ``images``."""
    if not isinstance(generator, Generator):
        raise TypeError(f"generator must be a torch.Generator, got {type(generator).__name__}")
    if generator.device.type != images.device.type:
        raise ValueError(f"generator must be on the device of images ({images.device}), got one on {generator.device}")


def check_generators(generator: Generator | Sequence[Generator], images: Tensor) -> None:
    """The same, for an argument that may also hold one generator an image (B, 3, H, W)."""
    if not isinstance(generator, list | tuple):
        generator = [generator]  # type: ignore[list-item]
    elif len(generator) != images.shape[0]:
        raise ValueError(
            f"generator must be one or hold one for each of {images.shape[0]} images, got {len(generator)}"
        )
    for one in generator:
        check_generator(one, images)


def check_severity(name: str, severity: float) -> float:
    """The value as a float; ValueError outside [0, 1]."""
    if not 0 <= severity <= 1:
        raise ValueError(f"{name} must lie in [0, 1], got {severity}")
    return float(severity)


def working_copy(images: Tensor) -> Tensor:
    """What operators are written for: float32, or float64 where images are that, and values in [0, 1]."""
    return (images if images.dtype == torch.float64 else images.float()).clamp(0, 1)


def operate(distortion: Distortion, images: Tensor, severity: Tensor, generator: Randomness) -> Tensor:
    """What the operator does to the whole picture, before any region.

    Args:
        distortion: the operator.
        images: (B, 3, H, W) in [0, 1].
        severity: (B,) in [0, 1], on the CPU.
        generator: source of the operator's randomness, on the device of ``images``.

    Returns:
        Distorted images (B, 3, H, W), clamped to [0, 1]; of an operator with ``flow``, the displacement (B, 2, H, W) in
        pixels. Rows of severity 0 are bitwise untouched.

    Raises:
        ValueError: the operator returned another shape.
    """
    parameter = distortion.parameter(severity)
    if distortion.flow is not None:
        result = distortion.flow(images, parameter, generator)
        untouched, channels = result.new_zeros(()), 2
    else:
        assert distortion.apply is not None
        result = distortion.apply(images, parameter, generator).clamp(0, 1)
        untouched, channels = images, 3
    wanted = (images.shape[0], channels, *images.shape[-2:])
    if result.shape != wanted:
        raise ValueError(f"distortion {distortion.name!r} returned shape {tuple(result.shape)}, wanted {wanted}")
    result = result.to(images.dtype)
    idle = severity == 0
    if not idle.any():
        return result
    return torch.where(idle.view(-1, 1, 1, 1).to(images.device, non_blocking=True), untouched, result)


def place(
    distortion: Distortion, images: Tensor, outcome: Tensor, region: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """Confine what :func:`operate` returned to a region.

    Args:
        distortion: the operator.
        images: (B, 3, H, W), its input.
        outcome: what :func:`operate` returned for it.
        region: (B, 1, H, W) in [0, 1], or None for the whole picture.

    Returns:
        The images (B, 3, H, W), bitwise the input where the region is 0, and the displacement (B, 2, H, W) in pixels
        that took place (None for pixel operators).
    """
    if distortion.flow is not None:
        displacement = outcome if region is None else outcome * region
        # Bicubic interpolation overshoots; pixels that stay must not be clamped.
        moved = warp(images, displacement).clamp(0, 1)
        return torch.where(at_rest(displacement), images, moved), displacement
    if region is None:
        return outcome, None
    # Where the region is 0 this adds 0 times the difference: bitwise the input.
    return torch.lerp(images, outcome, region), None


def seeded(seed: int, device: torch.device) -> Generator:
    """A generator on ``device`` that starts from ``seed``."""
    return Generator(device=device).manual_seed(seed)


def check_recipes(images: Tensor, recipes: Sequence[Recipe], table: Mapping[str, Distortion]) -> None:
    """Raise ValueError unless there is one recipe an image and each names known operators and regions."""
    if len(recipes) != images.shape[0]:
        raise ValueError(f"recipes must hold one recipe for each of {images.shape[0]} images, got {len(recipes)}")
    for component in (component for recipe in recipes for component in recipe):
        if component.name not in table:
            raise ValueError(unknown_name("distortion", component.name, table))
        if component.region not in (*REGIONS, NESTED):
            raise ValueError(unknown_name("region", component.region, (*REGIONS, NESTED)))
        check_severity(f"severity of {component.name!r}", component.severity)
        check_severity(f"extent of {component.name!r}", component.extent)


def distort(
    images: Tensor,
    name: str | Distortion,
    severity: float | Tensor,
    region: str | Tensor | None = None,
    generator: Generator | None = None,
) -> Tensor:
    """Apply one operator to a batch, in one call.

    Args:
        images: (B, 3, H, W) in [0, 1], of any float dtype; values outside are clamped.
        name: an operator of the bank, or a ``Distortion`` of one's own.
        severity: a number or a tensor (B,), in calibrated units: 0 leaves the picture bitwise untouched, 1 is the
            strongest.
        region: where to act: None for everywhere, a kind of ``REGIONS``, or a mask in [0, 1] of shape (B, 1, H, W),
            (B, H, W) or (H, W).
        generator: source of all randomness, on the device of ``images``; None for a fresh one with seed 0, so that a
            call without generator always gives the same picture. The operator draws before the region does, and for the
            batch as a whole: an image's draw depends on its place in it. A ``DistortionEngine`` gives every image a
            stream of its own.

    Returns:
        (B, 3, H, W), dtype of ``images``; bitwise the input where the region is 0.

    Raises:
        ValueError: unknown operator or region, severity outside [0, 1], a mask of the wrong shape or range.
        TypeError: not images, not a name, not a mask, not a generator.
    """
    check_images("images", images)
    distortion = resolve(name)
    if generator is None:
        generator = seeded(0, images.device)
    check_generator(generator, images)
    work = working_copy(images)
    try:
        strength = torch.as_tensor(severity, dtype=work.dtype, device="cpu")
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"severity must be a number or a tensor, got {type(severity).__name__}") from None
    if strength.ndim > 1 or (strength.ndim == 1 and strength.shape[0] != images.shape[0]):
        raise ValueError(f"severity must be a number or have shape ({images.shape[0]},), got {tuple(strength.shape)}")
    if not bool(((strength >= 0) & (strength <= 1)).all()):
        raise ValueError(f"severity must lie in [0, 1], got {severity}")
    strength = strength.expand(images.shape[0])
    # Half precision would show as steps, in what was asked for without any.
    with torch.autocast(images.device.type, enabled=False):
        outcome = operate(distortion, work, strength, generator)
        result, _ = place(distortion, work, outcome, _region_argument(region, work, generator))
    return result.to(images.dtype)


def _region_argument(region: str | Tensor | None, images: Tensor, generator: Generator) -> Tensor | None:
    if region is None:
        return None
    if isinstance(region, str):
        return draw_region(region, images, generator)
    if not isinstance(region, Tensor):
        raise TypeError(f"region must be None, a kind ({', '.join(REGIONS)}) or a mask, got {type(region).__name__}")
    batch, _, height, width = images.shape
    if region.shape not in ((height, width), (batch, height, width), (batch, 1, height, width)):
        raise ValueError(f"region must have shape {(batch, 1, height, width)}, got {tuple(region.shape)}")
    mask = region.to(images).reshape(-1, 1, height, width).expand(batch, -1, -1, -1)
    if not bool(((mask >= 0) & (mask <= 1)).all()):
        raise ValueError("region must lie in [0, 1], got values outside")
    return mask
