"""The operators as transforms of torchvision's v2 (extra ``torchvision``), to be composed with its own.

Both transforms follow the rules of v2 for what a sample may hold:

* Images, videos, PIL images, and a plain tensor where v2 takes it for an image, are distorted; type, dtype and leading
  dimensions stay. One sample gets one draw: all its images, and all frames of a video, share operators, severities,
  random numbers and, among images of one size, the region.
* Values are uint8, or of a float dtype in [0, 1], on which the operators are defined: values outside are clamped, so
  transforms that leave the range (``v2.Normalize``) come after. Other integers are an error.
* One channel is taken as grey: the operator acts on three equal channels, and the BT.601 luma of the result is kept.
* Masks, boxes, keypoints and any other tv_tensor with a kernel for ``v2.functional.elastic`` move along when the
  content moves (operators of the family ``geometry``), and are passed through otherwise.
* The seed is drawn once a sample from torch's global generator, so ``torch.manual_seed`` and the worker seeds of a
  ``DataLoader`` rule it.

For training, crop first, distort uint8 or [0, 1], and normalise last::

    v2.Compose([v2.RandomCrop(224), RandomDistortion(p=0.5), v2.ToDtype(torch.float32, scale=True), v2.Normalize(...)])
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..distortions import Component, Distortion, DistortionEngine, Recipe
from ..distortions.availability import pillow_with
from ..distortions.compose import check_severity, operate, place, resolve, seeded, working_copy
from ..distortions.draws import SEED_LIMIT, Draws
from ..distortions.filters import LUMA
from ..distortions.regions import REGIONS
from ..distortions.render import Renderer
from ..distortions.warp import warp
from ..images import MissingExtra
from ..validation import FLOAT_DTYPES, check_images, unknown_name

try:
    import PIL.Image
    from torchvision import tv_tensors
    from torchvision.transforms import v2
except ImportError as error:
    raise MissingExtra("torchvision", "torchvision") from error

# Younger than the oldest torchvision that will do.
_KEYPOINTS: tuple[Any, ...] = (tv_tensors.KeyPoints,) if hasattr(tv_tensors, "KeyPoints") else ()
_PLACED = (tv_tensors.Mask, tv_tensors.BoundingBoxes, *_KEYPOINTS)
_ROTATED = ("CXCYWHR", "XYWHR", "XYXYXYXY")

# Rounds of the search for where a point goes: displacements of the bank are found to below 0.01 pixels, save where the
# rim of a region folds them.
_ROUNDS = 12


class _Distorting(v2.Transform):
    """What both transforms share: a recipe for the sample, done to all that is in it."""

    def __init__(self, p: float) -> None:
        super().__init__()
        if not 0 <= p <= 1:
            raise ValueError(f"p must be a probability in [0, 1], got {p}")
        self.p = float(p)

    def _table(self) -> dict[str, Distortion]:
        raise NotImplementedError

    def _plan(self, draws: Draws) -> Recipe:
        raise NotImplementedError

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw what happens to a sample.

        Returns:
            ``recipe``, the components in order, empty if nothing happens; ``scene``, for what depends on the pictures.
        """
        draws = Draws(int(torch.randint(SEED_LIMIT, (), device="cpu")))
        happens = draws.uniform() < self.p
        # Components of severity 0 leave everything as it is.
        recipe = tuple(one for one in self._plan(draws) if one.severity > 0) if happens else ()
        pictures = [one for one in flat_inputs if _shows(one) and not _is_empty(one)]
        return {"recipe": recipe, "scene": _Scene(recipe, self._table(), pictures)}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Distort one part of a sample, see the module."""
        recipe: Recipe = params["recipe"]
        scene: _Scene = params["scene"]
        if not recipe or _is_empty(inpt):
            return inpt
        if _shows(inpt):
            return scene.distorted(inpt)
        for displacement in scene.displacements(_size(inpt) if isinstance(inpt, _PLACED) else None, type(inpt)):
            inpt = self._moved(inpt, displacement)
        return inpt

    def _moved(self, inpt: Any, displacement: Tensor) -> Any:
        if isinstance(inpt, tv_tensors.Mask):
            return tv_tensors.wrap(_moved_mask(inpt.as_subclass(Tensor), displacement), like=inpt)
        if isinstance(inpt, tv_tensors.BoundingBoxes):
            return v2.functional.clamp_bounding_boxes(tv_tensors.wrap(_moved_boxes(inpt, displacement), like=inpt))
        if isinstance(inpt, _KEYPOINTS):
            points = inpt.as_subclass(Tensor)
            moved = _moved_points(points.reshape(-1, 2), displacement).reshape(points.shape)
            return tv_tensors.wrap(_like(moved, points), like=inpt)
        # Kinds of tv_tensor that others have taught torchvision to move.
        return self._call_kernel(v2.functional.elastic, inpt, displacement=_torchvision_grid(displacement))


class Distort(_Distorting):
    """One operator at a severity, in the whole picture or in a random region of it.

    Args:
        distortion: an operator of the bank by name, or a ``Distortion`` of one's own.
        severity: in calibrated units, from 0 (untouched) to 1; or a range (low, high), from which one is drawn evenly
            for each sample.
        region: None for the whole picture, or a kind of ``relqa_loss.distortions.REGIONS``, drawn for each sample.
        p: probability that it happens.

    Raises:
        ValueError: unknown operator or region, severity or p outside [0, 1]; from a sample, images smaller than 16x16
            or with other than 1 or 3 channels.
        TypeError: from a sample, an integer dtype other than uint8, a PIL mode other than RGB and L, or content that
            moves while the sample shows no picture of the size of a mask, a box or a keypoint.
        MissingExtra: the operator needs a codec that is missing here.
    """

    def __init__(
        self,
        distortion: str | Distortion,
        severity: float | tuple[float, float] = 0.5,
        region: str | None = None,
        p: float = 1.0,
    ) -> None:
        super().__init__(p)
        self._distortion = resolve(distortion)
        if self._distortion.codec is not None:
            pillow_with(self._distortion.codec, self._distortion.name)
        if region is not None and region not in REGIONS:
            raise ValueError(unknown_name("region", region, REGIONS))
        ends = tuple(severity) if isinstance(severity, Sequence) else (severity, severity)
        if len(ends) != 2 or ends[0] > ends[1]:
            raise ValueError(f"severity must be a number or a range (low, high), got {severity}")
        self._range = check_severity("severity", ends[0]), check_severity("severity", ends[1])
        self.severity = severity
        self.region = region

    def _table(self) -> dict[str, Distortion]:
        return {self._distortion.name: self._distortion}

    def _plan(self, draws: Draws) -> Recipe:
        severity = draws.uniform(*self._range)
        return (Component(self._distortion.name, severity, self.region or "whole", draws.new_seed()),)

    def extra_repr(self) -> str:
        """What was asked for."""
        return f"{self._distortion.name!r}, severity={self.severity}, region={self.region!r}, p={self.p}"


class RandomDistortion(_Distorting):
    """What the engine would do: one to three operators, each in a region of its own, drawn for each sample.

    Args:
        distortions: a ``DistortionEngine``, which decides alone; or operators and names for a new one, None for the
            whole bank.
        severity: range from which severities are drawn, evenly; None for (0.1, 1).
        regions: probability of each kind of region; None for those of the engine.
        components: probability of 1, 2 or 3 operators; None for those of the engine.
        p: probability that anything happens.

    Raises:
        ValueError: what ``DistortionEngine`` and :class:`Distort` raise; an engine and other settings beside it.
        TypeError: as :class:`Distort`.
        MissingExtra: an operator needs a codec that is missing here (pass an engine with ``missing_codecs="skip"``).
    """

    def __init__(
        self,
        distortions: DistortionEngine | Sequence[Distortion | str] | None = None,
        *,
        severity: tuple[float, float] | None = None,
        regions: Mapping[str, float] | None = None,
        components: Mapping[int, float] | None = None,
        p: float = 1.0,
    ) -> None:
        super().__init__(p)
        if isinstance(distortions, DistortionEngine):
            if not severity is regions is components is None:
                raise ValueError("severity, regions and components are the engine's where an engine is passed")
            self.engine = distortions
        else:
            self.engine = DistortionEngine(
                distortions,
                severity=(0.1, 1.0) if severity is None else severity,
                regions=regions,
                components=components,
            )

    def _table(self) -> dict[str, Distortion]:
        return {one.name: one for one in self.engine.distortions}

    def _plan(self, draws: Draws) -> Recipe:
        return self.engine.plan(draws)

    def extra_repr(self) -> str:
        """What was asked for."""
        return f"{self.engine!r}, p={self.p}"


class _Scene:
    """Regions and displacements of one sample: made on the first picture of each size, shared by all of that size."""

    def __init__(self, recipe: Recipe, table: Mapping[str, Distortion], pictures: Sequence[Any]) -> None:
        self._recipe = recipe
        self._table = table
        self._moves = any(table[one.name].flow is not None for one in recipe)
        self._pictures: dict[tuple[int, int], Any] = {}
        for picture in pictures:
            self._pictures.setdefault(_size(picture), picture)
        self._renderers: dict[tuple[int, int], Renderer] = {}

    def distorted(self, picture: Any) -> Any:
        """The picture, distorted, as what it was."""
        size = _size(picture)
        frames = _frames(picture)
        renderer = self._renderer(size)
        done = []
        with torch.autocast(frames.device.type, enabled=False):
            for index in range(frames.shape[0]):
                if index == 0 and picture is self._pictures[size]:
                    done.extend(renderer.render([(0, self._recipe)]))
                else:
                    done.append(self._frame(frames[index : index + 1], renderer))
        return _as_before(torch.cat(done), picture)

    def displacements(self, size: tuple[int, int] | None, kind: type) -> list[Tensor]:
        """Displacements (1, 2, H, W) in pixels that follow each other in the first picture of a size.

        Args:
            size: (H, W); None for the first picture of all.
            kind: of what is to be moved, for the message.
        """
        if not self._moves:
            return []
        if size is None:
            size = next(iter(self._pictures), None)
        if size is None or size not in self._pictures:
            wanted = "" if size is None else f" of {size[0]}x{size[1]} pixels"
            raise TypeError(f"the sample shows no image or video{wanted} with which to move its {kind.__name__}")
        renderer = self._renderer(size)
        found = (renderer.displacement(0, self._recipe[: i + 1]) for i in range(len(self._recipe)))
        return [one for one in found if one is not None]

    def _renderer(self, size: tuple[int, int]) -> Renderer:
        if size not in self._renderers:
            frames = _frames(self._pictures[size])[:1]
            renderer = Renderer(frames, self._table)
            with torch.autocast(frames.device.type, enabled=False):
                renderer.render([(0, self._recipe)])
            self._renderers[size] = renderer
        return self._renderers[size]

    def _frame(self, image: Tensor, renderer: Renderer) -> Tensor:
        """Another picture (1, 3, H, W), with the seeds, regions and displacements of the first."""
        for i, component in enumerate(self._recipe):
            distortion = self._table[component.name]
            displacement = renderer.displacement(0, self._recipe[: i + 1])
            if displacement is not None:
                image, _ = place(distortion, image, displacement.to(image), None)
                continue
            severity = torch.tensor([component.severity], dtype=image.dtype)
            outcome = operate(distortion, image, severity, seeded(component.seed, image.device))
            region = renderer.region(0, component)
            image, _ = place(distortion, image, outcome, None if region is None else region.to(image))
        return image


def _shows(inpt: Any) -> bool:
    """True for what is distorted as a picture: v2 passes plain tensors on only where they are images."""
    if isinstance(inpt, tv_tensors.Image | tv_tensors.Video | PIL.Image.Image):
        return True
    return isinstance(inpt, Tensor) and not isinstance(inpt, tv_tensors.TVTensor)


def _is_empty(inpt: Any) -> bool:
    return isinstance(inpt, Tensor) and inpt.numel() == 0


def _size(inpt: Any) -> tuple[int, int]:
    """Height and width of a picture, or of the picture that something belongs to."""
    if isinstance(inpt, PIL.Image.Image):
        return inpt.height, inpt.width
    if hasattr(inpt, "canvas_size"):
        height, width = inpt.canvas_size
        return int(height), int(width)
    if inpt.ndim < 2:
        raise ValueError(f"images must have shape (..., 1 or 3, H, W), got {tuple(inpt.shape)}")
    return inpt.shape[-2], inpt.shape[-1]


def _frames(picture: Any) -> Tensor:
    """Every picture in it: (N, 3, H, W) in [0, 1], float32 or float64."""
    values: Tensor
    if isinstance(picture, PIL.Image.Image):
        if picture.mode not in ("RGB", "L"):
            raise TypeError(f"PIL images must have mode RGB or L, got {picture.mode}: convert them first (v2.RGB)")
        values = v2.functional.pil_to_tensor(picture)
    else:
        values = picture.as_subclass(Tensor)
    if values.ndim < 3 or values.shape[-3] not in (1, 3):
        raise ValueError(f"images must have shape (..., 1 or 3, H, W), got {tuple(values.shape)}")
    if values.dtype not in (torch.uint8, *FLOAT_DTYPES):
        raise TypeError(
            f"images must be uint8 or float, got {values.dtype}: convert them first "
            "(v2.ToDtype(torch.float32, scale=True))"
        )
    frames = values.reshape(-1, *values.shape[-3:]).expand(-1, 3, -1, -1)
    frames = frames.float() / 255 if frames.dtype == torch.uint8 else working_copy(frames)
    check_images("images", frames)
    return frames.clamp(0, 1)


def _as_before(frames: Tensor, picture: Any) -> Any:
    """Distorted frames (N, 3, H, W) as what they were made of."""
    is_pil = isinstance(picture, PIL.Image.Image)
    shape = (len(picture.getbands()), *frames.shape[2:]) if is_pil else picture.shape
    if shape[-3] == 1:
        red, green, blue = frames.split(1, dim=1)
        # As differences: equal channels give exactly their value.
        frames = red + LUMA[1] * (green - red) + LUMA[2] * (blue - red)
    if is_pil or picture.dtype == torch.uint8:
        values = (frames * 255).round().to(torch.uint8)
    else:
        values = frames.to(picture.dtype)
    values = values.reshape(shape)
    if is_pil:
        return v2.functional.to_pil_image(values, mode=picture.mode)
    return tv_tensors.wrap(values, like=picture) if isinstance(picture, tv_tensors.TVTensor) else values


def _moved_mask(mask: Tensor, displacement: Tensor) -> Tensor:
    """Mask (..., H, W): every pixel takes the value that came there, mirrored at the borders as pictures are."""
    # Any label survives in float64.
    planes = mask.reshape(1, -1, *mask.shape[-2:]).double()
    moved = warp(planes, displacement.to(planes), mode="nearest")
    return moved.to(mask.dtype).reshape(mask.shape)


def _moved_points(points: Tensor, displacement: Tensor) -> Tensor:
    """Where the content at points (N, 2), (x, y) from the centre of the first pixel, has gone: float64.

    Pictures are read backwards, ``out(q) = in(q - d(q))``, so p goes to the q with ``q = p + d(q)``, found by
    iteration. ``v2.functional.elastic`` rounds points to whole pixels, which is more than small displacements move.
    """
    start = points.double()
    field = displacement.to(start)
    height, width = field.shape[-2:]
    size = torch.tensor((width, height), dtype=start.dtype, device=start.device)
    reached = start
    for _ in range(_ROUNDS):
        grid = ((2 * reached + 1) / size - 1).view(1, 1, -1, 2)
        step = F.grid_sample(field, grid, mode="bilinear", padding_mode="border", align_corners=False)
        reached = start + step.view(2, -1).T
    return reached


def _moved_boxes(boxes: Any, displacement: Tensor) -> Tensor:
    """Plain boxes around where their corners have gone; rotated ones keep size and angle and move with the centre."""
    plain = boxes.as_subclass(Tensor)
    rotated = boxes.format.value in _ROTATED
    kind = tv_tensors.BoundingBoxFormat("CXCYWHR" if rotated else "XYXY")
    values = v2.functional.convert_bounding_box_format(
        plain.reshape(-1, plain.shape[-1]).double(), old_format=boxes.format, new_format=kind
    )
    # Boxes count from the corner of the first pixel, displacements from its centre.
    if rotated:
        values = torch.cat((_moved_points(values[:, :2] - 0.5, displacement) + 0.5, values[:, 2:]), dim=1)
    else:
        corners = values[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 2)
        corners = (_moved_points(corners - 0.5, displacement) + 0.5).view(-1, 4, 2)
        values = torch.cat((corners.amin(1), corners.amax(1)), dim=1)
    values = v2.functional.convert_bounding_box_format(values, old_format=kind, new_format=boxes.format)
    return _like(values.reshape(plain.shape), plain)


def _like(values: Tensor, before: Tensor) -> Tensor:
    return values.to(before.dtype) if before.dtype.is_floating_point else values.round().to(before.dtype)


def _torchvision_grid(displacement: Tensor) -> Tensor:
    """The displacement as ``v2.functional.elastic`` takes it.

    (1, H, W, 2), added to the places that are read, in halves of the picture's sides.
    """
    height, width = displacement.shape[-2:]
    size = torch.tensor((width, height), dtype=displacement.dtype, device=displacement.device)
    return -2 * displacement.permute(0, 2, 3, 1) / size
