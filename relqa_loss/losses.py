"""`RelationalLoss`, the perceptual loss: a distance, signed maps, a score, and weights for other losses."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from . import hub
from . import weights as weights_module
from .digests import digest_of, distance_digest
from .modes import as_called
from .predictor import DistortionPredictor
from .prepared import PreparedReference
from .relation import Relation
from .scorer import DistanceTerms, RelationalScorer
from .settings import (
    Reduction,
    axis_weight_vector,
    check_reduction,
    have_one_factor,
    normalise_weight,
    range_ends,
    reduce,
)
from .spatial_weights import DEFAULT_LIMIT, spatial_weights
from .tiles import TiledPair, check_tile
from .validation import check_images, check_on, check_pair
from .whole_pair import Encoded, WholePair

DEFAULT_WEIGHTS = "relqa-v1"


class RelationalLoss(nn.Module):
    """Perceptual distance between two images, and signed maps of what differs, where, how much and in which direction.

    The networks are frozen, stay in evaluation mode whatever ``train()`` is called, and compute in the dtype of their
    parameters (float32 unless the module is cast): inputs are cast to it. Maps come back in it; distances, parts and
    scores are sums over a picture and come back in float32 at least.

    Args:
        weights: a bundled name, else an existing folder, else ``owner/name[@revision]`` on the Hugging Face Hub.
        reduction: ``"mean"`` or ``"sum"`` over the batch, or ``"none"`` for one value per pair.
        data_range: a number m for images in [0, m], or a pair (low, high). Values outside are accepted and not clamped.
        axis_weights: factor per axis name, >= 0 and finite, 1 where missing. The full-resolution floor stays. They
            are settled here: gradients of a loss whose buffer is changed later are not those of its values.

    Raises:
        ValueError: unknown weights, reduction or axis (nearest match offered), a bad factor or range, altered weight
            files, a repository on the Hub that does not exist or holds something else.
        OSError: the Hub refuses (``PermissionError``), cannot be reached (``ConnectionError``) or fails otherwise.
    """

    axis_weights: Tensor

    def __init__(
        self,
        weights: str | os.PathLike[str] = DEFAULT_WEIGHTS,
        *,
        reduction: Reduction = "mean",
        data_range: float | tuple[float, float] = 1.0,
        axis_weights: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__()
        check_reduction(reduction)
        self.reduction: Reduction = reduction
        self.data_range = range_ends(data_range)
        factors = axis_weight_vector(axis_weights)
        self._one_factor = have_one_factor(factors)
        # Tensors made in inference mode could not take part in a later backward pass.
        with torch.inference_mode(False):
            self.register_buffer("axis_weights", factors.clone(), persistent=False)
            self._load(weights)
        self.requires_grad_(False)
        self.eval()

    def _load(self, weights: str | os.PathLike[str]) -> None:
        loaded = weights_module.fetch(weights)
        self.weights_name = str(weights)
        self.weights_revision = loaded.revision
        self.weights_config = loaded.config
        card = loaded.folder / weights_module.CARD_FILE
        self.model_card = card.read_text(encoding="utf-8") if card.is_file() else None
        figure = loaded.folder / weights_module.FIGURE_FILE
        self.card_figure = figure.read_bytes() if figure.is_file() else None
        self.predictor = weights_module.build(
            DistortionPredictor, loaded.config["predictor"], loaded.predictor, weights_module.PREDICTOR_FILE
        )
        self.scorer = weights_module.build(
            RelationalScorer, loaded.config["scorer"], loaded.scorer, weights_module.SCORER_FILE
        )
        self._distance = distance_digest(self.predictor, self.scorer, self.axis_weights)
        self._loaded = self._digests()
        self._features: str | None = self._loaded[0]

    def train(self, mode: bool = True) -> RelationalLoss:
        """Stay in evaluation mode, whatever the mode of the module that holds the loss."""
        return super().train(False)

    def extra_repr(self) -> str:
        """Settings, for ``print(loss_fn)``."""
        return f"weights={self.weights_name!r}, reduction={self.reduction!r}, data_range={self.data_range}"

    def forward(
        self,
        pred: Tensor,
        ref: Tensor | PreparedReference,
        *,
        weight: Tensor | None = None,
        tile: int | None = None,
    ) -> Tensor:
        """Distance between ``pred`` and ``ref``: lower is better, exactly 0 for equal images.

        Args:
            pred: (B, 3, H, W), RGB, sRGB-encoded, in ``data_range``; H and W at least 16.
            ref: same shape and device, or :meth:`prepare` of it; receives gradients only if it asks for them.
            weight: (B, 1, H, W) or (B, H, W), >= 0, how much each pixel counts; normalised to mean 1 per image.
                Signs are not checked, since that would wait for the device; a weight that is 0 everywhere gives 0.
            tile: as in :meth:`relate`.

        Returns:
            A scalar, or (B,) with ``reduction="none"``.

        Raises:
            TypeError: not float tensors.
            ValueError: wrong rank, channels or size, different shapes or devices, or another device than the loss's.
        """
        self._check("pred", pred, "ref", ref)
        # The shares of the axes add up to 1: a distance with one factor for all of them does not depend on who has
        # which, and they cost some 7 % of the time.
        named = not self._one_factor
        if tile is None:
            first, second = self._encode(pred), self._encode(ref)
            pair = self._compare(first, second, named=named)
            terms = pair.terms(None if weight is None else normalise_weight(weight, first.images))
        else:
            terms = self._in_tiles(pred, "ref", ref, tile, weight, named=named).terms()
        return reduce(_distance(terms), self.reduction)

    def prepare(self, ref: Tensor) -> PreparedReference:
        """Features of a reference that is compared again and again, computed once.

        What it gives back goes wherever ``ref``, and the ``b`` of :meth:`relate`, do, with the same values bit for bit
        in eager mode. The reference gets no gradient through it. Call it under the autocast that the loss runs under.

        Args:
            ref: (B, 3, H, W) in ``data_range``.

        Raises:
            TypeError: not a float tensor.
            ValueError: wrong rank, channels or size, or another device than the loss's.
        """
        check_images("ref", ref)
        check_on("ref", ref, "the loss", self.axis_weights.device)
        # Tensors made in inference mode could not take part in a later backward pass.
        with torch.inference_mode(False), torch.no_grad():
            images, features = self._encode(ref.clone())
        return PreparedReference(images, features, self.data_range, self._digest_of_features())

    def relate(
        self,
        a: Tensor,
        b: Tensor | PreparedReference,
        ref: Tensor | PreparedReference | None = None,
        *,
        tile: int | None = None,
    ) -> Relation:
        """Everything there is to say of a compared with b.

        Args:
            a: (B, 3, H, W), RGB, sRGB-encoded, in ``data_range``; H and W at least 16.
            b: same shape and device, or :meth:`prepare` of it.
            ref: the original both come from, same shape, prepared or not, or None. With it the score is
                ``distance(b, ref) - distance(a, ref)``; without it, a learned judgement of the two images alone,
                which stays near 0 where a pair cannot tell (a brighter version of what?).
            tile: None, or compute in tiles of at most this side in pixels, a multiple of 16, for pictures that do not
                fit into memory at once: the values of one pass up to rounding, in the memory of
                ``(tile + 2 * 96)^2`` pixels, ``(tile + 2 * 272)^2`` for maps and for a score without ``ref``, which
                are computed tile by tile in a pass of their own when asked for. In a backward pass each tile is
                computed again. Not for prepared references, which hold a whole picture.

        Returns:
            A :class:`Relation`. Maps and score are computed when first asked for, under the autocast of this call, and
            without gradients if this call had none.

        Raises:
            TypeError: not float tensors, or ``tile`` is not an int.
            ValueError: wrong rank, channels or size, different shapes or devices, another device than the loss's, a
                prepared reference of another shape, device, dtype, range or weights, or a wrong ``tile``.
        """
        if ref is not None:
            self._check("a", a, "ref", ref)
        self._check("a", a, "b", b)
        if tile is None:
            # Two calls of equal shape: inside one batch the last bits could depend on the position, and identity would
            # not be 0.
            first, second = self._encode(a), self._encode(b)
            pair: WholePair | TiledPair = self._compare(first, second)

            def compute_score() -> Tensor:
                if ref is None:
                    return pair.judgement()
                anchor = self._encode(ref)
                return _score(self._compare(first, anchor), self._compare(second, anchor))
        else:
            pair = self._in_tiles(a, "b", b, tile)
            anchored = () if ref is None else tuple(self._in_tiles(each, "ref", ref, tile) for each in (a, pair.b))

            def compute_score() -> Tensor:
                return _score(*anchored) if anchored else pair.judgement()

        terms = pair.terms()
        kind = a.device.type
        return Relation(
            distance=_distance(terms),
            parts=terms.parts,
            floor=terms.floor,
            decode_maps=as_called(pair.maps, kind),
            compute_score=as_called(compute_score, kind),
            images=pair.images,
        )

    @torch.no_grad()
    def weights(
        self,
        pred: Tensor,
        ref: Tensor | PreparedReference,
        *,
        axes: str | Iterable[str] | None = None,
        strength: float = 1.0,
        limit: float = DEFAULT_LIMIT,
        focus: float | Tensor = 1.0,
        weight: Tensor | None = None,
        tile: int | None = None,
    ) -> Tensor:
        """How much each pixel of your own per-pixel loss should count, by what the maps say of it.

        ``(loss_fn.weights(pred, ref) * (pred - ref).abs()).mean()`` is what :class:`SpatiallyWeightedLoss` computes.

        Args:
            pred: as in :meth:`forward`.
            ref: as in :meth:`forward`.
            axes: name or names of the axes to follow; all if None. The loss's ``axis_weights`` play no part.
            strength: as in :func:`relqa_loss.spatial_weights.spatial_weights`, which has the formula.
            limit: as there.
            focus: as there: 1 for the hard places, 0 for all alike, -1 for the easy ones.
            weight: as in :meth:`forward`; the result contains it.
            tile: as in :meth:`relate`.

        Returns:
            (B, 1, H, W) >= 0, detached, of mean 1 per image; between ``1 / limit`` and ``limit`` where no ``weight``
            is given, and 1 everywhere where the images are equal. Float32 at least.

        Raises:
            TypeError: not float tensors.
            ValueError: as in :meth:`relate`; an unknown axis or none; a number out of its range.
        """
        self._check("pred", pred, "ref", ref)
        if tile is None:
            maps = self._compare(self._encode(pred), self._encode(ref)).maps()
        else:
            maps = self._in_tiles(pred, "ref", ref, tile).maps()
        return spatial_weights(maps, axes=axes, strength=strength, limit=limit, focus=focus, weight=weight)

    def info(self) -> dict[str, Any]:
        """What the weights are, to be printed beside reported figures.

        Returns:
            ``weights``: as passed to the constructor. ``revision``: the commit on the Hub they were loaded from; None
            for bundled weights and folders. ``files``: sha256 of each weights file, verified. ``distance``: sha256 of
            what distances depend on (:func:`.digests.distance_digest`), axis weights included, as it was loaded: two
            losses that differ in ``files`` alone give other maps or judgements, and the same distances.
            ``provenance``: what the training recorded.
        """
        return {
            "weights": self.weights_name,
            "revision": self.weights_revision,
            "files": self.weights_config["files"],
            "distance": self._distance,
            "provenance": self.weights_config.get("provenance", {}),
        }

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | os.PathLike[str] = DEFAULT_WEIGHTS,
        *,
        revision: str | None = None,
        reduction: Reduction = "mean",
        data_range: float | tuple[float, float] = 1.0,
        axis_weights: Mapping[str, float] | None = None,
    ) -> RelationalLoss:
        """Load a weights folder: bundled, local, or on the Hub at ``revision``. Arguments as in the constructor.

        From the Hub, files that are already in its cache are not loaded again, and private repositories are read with
        the token of ``hf auth login`` or ``HF_TOKEN``. Offline (``HF_HUB_OFFLINE=1``), the cached state is used.

        Raises:
            ValueError: as the constructor; a revision of something that is not on the Hub.
            OSError: as the constructor.
        """
        name = name_or_path if revision is None else weights_module.at_revision(name_or_path, revision)
        return cls(name, reduction=reduction, data_range=data_range, axis_weights=axis_weights)

    def save_pretrained(self, folder: str | os.PathLike[str]) -> Path:
        """Write the whole weights folder (config, safetensors files, model card and its figure); returns its path.

        Weights that are no longer those that were loaded, since others were put into the module or it was cast to fewer
        digits, get a plain card that claims no figures, and a note in their provenance.
        """
        provenance, card, figure = self.weights_config.get("provenance", {}), self.model_card, self.card_figure
        if self._digests() != self._loaded:
            files = ", ".join(f"{name} {digest[:16]}" for name, digest in self.weights_config["files"].items())
            note = f"Changed after this training: the tensors are not those of {files}."
            provenance = {**provenance, "notes": [*provenance.get("notes", []), note]}
            card = figure = None
        weights_module.save(
            folder,
            predictor=_in_float32(self.predictor),
            predictor_config=self.predictor.config,
            scorer=_in_float32(self.scorer),
            scorer_config=self.scorer.config,
            provenance=provenance,
            card=card,
            figure=figure,
        )
        return Path(folder)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        token: str | None = None,
        revision: str | None = None,
        commit_message: str = "Upload relqa_loss weights",
    ) -> str:
        """Upload the weights folder to the Hugging Face Hub, in one commit: all of it or nothing.

        Args:
            repo_id: ``owner/name``; created where it does not exist.
            private: whether a repository that is created is private; None for the owner's default.
            token: of the Hub; that of ``hf auth login`` or ``HF_TOKEN`` if None.
            revision: branch, created where it does not exist; the main branch if None.
            commit_message: of the commit.

        Returns:
            The commit's address.

        Raises:
            ValueError: ``repo_id`` is not of that form, or the Hub does not accept it or the model card.
            OSError: the Hub refuses (``PermissionError``), cannot be reached (``ConnectionError``) or fails otherwise.
        """
        with tempfile.TemporaryDirectory() as folder:
            files = {path.name: path.read_bytes() for path in self.save_pretrained(folder).iterdir()}
        stale = [] if weights_module.FIGURE_FILE in files else [weights_module.FIGURE_FILE]
        return hub.upload(
            repo_id, files, remove=stale, revision=revision, private=private, token=token, message=commit_message
        )

    def _check(self, a_name: str, a: Tensor, b_name: str, b: Tensor | PreparedReference) -> None:
        if isinstance(b, PreparedReference):
            check_images(a_name, a)
            b.check_fits(b_name, a_name, a, self.axis_weights.dtype, self.data_range, self._digest_of_features())
        else:
            check_pair(a_name, a, b_name, b)
        check_on(a_name, a, "the loss", self.axis_weights.device)

    def _load_from_state_dict(self, *arguments: Any) -> None:
        """Part of ``load_state_dict``, of this module or of one that holds it."""
        self._features = None
        super()._load_from_state_dict(*arguments)

    def _digest_of_features(self) -> str:
        """sha256 of what makes features, for prepared references; read anew after ``load_state_dict``."""
        if self._features is None:
            self._features = digest_of(_in_float32(self.predictor))
        return self._features

    def _digests(self) -> tuple[str, str]:
        return digest_of(_in_float32(self.predictor)), digest_of(_in_float32(self.scorer))

    def _in_unit_range(self, images: Tensor) -> Tensor:
        (low, high), dtype = self.data_range, self.axis_weights.dtype
        if (low, high) != (0.0, 1.0):
            # In more than half precision, which has no 65535, and alike whatever dtype a picture comes in.
            images = (images.to(torch.promote_types(dtype, torch.float32)) - low) / (high - low)
        return images.to(dtype)

    def _encode(self, images: Tensor | PreparedReference) -> Encoded:
        if isinstance(images, PreparedReference):
            return Encoded(images.images, images.features)
        images = self._in_unit_range(_as_recorded(images))
        return Encoded(images, self.predictor.encode(images))

    def _compare(self, a: Encoded, b: Encoded, *, named: bool = True) -> WholePair:
        return WholePair(self.predictor, self.scorer, self.axis_weights, a, b, named=named)

    def _in_tiles(
        self,
        a: Tensor,
        b_name: str,
        b: Tensor | PreparedReference,
        tile: int,
        weight: Tensor | None = None,
        *,
        named: bool = True,
    ) -> TiledPair:
        check_tile(tile)
        if isinstance(b, PreparedReference):
            raise ValueError(f"{b_name} is prepared, which holds features of the whole picture: with tile, pass images")
        return TiledPair(
            predictor=self.predictor,
            scorer=self.scorer,
            axis_weights=self.axis_weights,
            unit_range=self._in_unit_range,
            a=_as_recorded(a),
            b=_as_recorded(b),
            weight=None if weight is None else normalise_weight(weight, a, self.axis_weights.dtype),
            tile=tile,
            named=named,
        )


def _as_recorded(images: Tensor) -> Tensor:
    """Without a graph where none is recorded: what is computed of them later has no gradient either, and holds none."""
    return images if torch.is_grad_enabled() else images.detach()


def _distance(terms: DistanceTerms) -> Tensor:
    return terms.parts.sum(dim=1) + terms.floor


def _score(of_a: WholePair | TiledPair, of_b: WholePair | TiledPair) -> Tensor:
    """How much nearer a is to a reference than b, from both beside it."""
    far, near = _distance(of_b.terms()), _distance(of_a.terms())
    return far - near


def _in_float32(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.float() for name, tensor in module.state_dict().items()}
