"""Which operators can run here: codecs need Pillow, built with them."""

from __future__ import annotations

from collections.abc import Iterable
from types import ModuleType

from ..images import MissingExtra, pillow
from .record import Distortion

CODEC_POLICIES = ("raise", "skip")
"""What to do about operators whose codec is missing here."""

_PILLOW_FEATURES = {"JPEG": "jpg", "WEBP": "webp", "JPEG2000": "jpg_2000", "AVIF": "avif"}


def has_codec(codec: str) -> bool:
    """True if Pillow is installed and was built with the codec; False for a codec that no operator here uses.

    Args:
        codec: ``"JPEG"``, ``"WEBP"``, ``"JPEG2000"`` or ``"AVIF"``.
    """
    try:
        from PIL import features
    except ImportError:
        return False
    feature = _PILLOW_FEATURES.get(codec)
    # An older Pillow warns about features it has never heard of, such as AVIF.
    known = (*features.modules, *features.codecs, *features.features)
    return feature in known and bool(features.check(feature))


def pillow_with(codec: str, operator: str) -> ModuleType:
    """``PIL.Image`` of a Pillow that has the codec.

    Args:
        codec: as in :func:`has_codec`.
        operator: name of the distortion that needs it, for the message.

    Raises:
        MissingExtra: Pillow is not installed, or was built without the codec.
    """
    image_module = pillow()
    if not has_codec(codec):
        raise MissingExtra(f"a codec for the distortion {operator!r}, Pillow built with {codec}", "images")
    return image_module


def can_run(distortion: Distortion) -> bool:
    """True unless the operator needs a codec that is missing here."""
    return distortion.codec is None or has_codec(distortion.codec)


def missing_codecs(distortions: Iterable[Distortion]) -> dict[str, str]:
    """Operator -> codec, for those whose codec is missing here."""
    return {one.name: one.codec for one in distortions if one.codec is not None and not has_codec(one.codec)}
