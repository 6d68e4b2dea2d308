"""Which operators can run here: codecs need Pillow, built with them."""

from __future__ import annotations

from types import ModuleType

from ..images import MissingExtra, pillow
from .record import Distortion

_PILLOW_FEATURES = {"JPEG": "jpg", "WEBP": "webp", "JPEG2000": "jpg_2000"}


def has_codec(codec: str) -> bool:
    """True if Pillow is installed and was built with the codec; False for a codec that no operator here uses.

    Args:
        codec: ``"JPEG"``, ``"WEBP"`` or ``"JPEG2000"``.
    """
    try:
        from PIL import features
    except ImportError:
        return False
    return codec in _PILLOW_FEATURES and bool(features.check(_PILLOW_FEATURES[codec]))


def pillow_with(codec: str) -> ModuleType:
    """``PIL.Image`` of a Pillow that has the codec.

    Raises:
        MissingExtra: Pillow is not installed, or was built without the codec.
    """
    image_module = pillow()
    if not has_codec(codec):
        raise MissingExtra(f"Pillow built with {codec}", "images")
    return image_module


def can_run(distortion: Distortion) -> bool:
    """True unless the operator needs a codec that is missing here."""
    return distortion.codec is None or has_codec(distortion.codec)
