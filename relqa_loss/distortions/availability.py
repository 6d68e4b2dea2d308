"""Which operators can run here: codecs need Pillow, built with them."""

from __future__ import annotations

from functools import cache

from .record import Distortion

_PILLOW_FEATURES = {"JPEG": "jpg", "WEBP": "webp", "JPEG2000": "jpg_2000", "AVIF": "avif"}


@cache
def _has_codec(codec: str) -> bool:
    try:
        from PIL import features
    except ImportError:
        return False
    feature = _PILLOW_FEATURES.get(codec)
    return feature in features.get_supported() if feature is not None else False


def can_run(distortion: Distortion) -> bool:
    """True unless the operator needs a codec that is missing here."""
    return distortion.codec is None or _has_codec(distortion.codec)
