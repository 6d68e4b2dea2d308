"""Lossy coding by the real codecs, through Pillow on the CPU: JPEG, WebP, JPEG 2000, AVIF, and what befalls files."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

from . import filters
from .availability import pillow_with
from .draws import Randomness
from .record import Distortion

Options = dict[str, object]
"""What Pillow's ``Image.save`` is told besides the format."""

_THREADED = ("WEBP", "AVIF")
"""Codecs during which Pillow lets other threads run; the others hold the interpreter's lock while they write."""


def _to_pictures(images: Tensor, image_module: Any) -> list[Any]:
    """Each of (B, 3, H, W) in [0, 1] as an 8-bit Pillow picture."""
    pixels = (images.detach() * 255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu()
    return [image_module.fromarray(picture.numpy()) for picture in pixels]


def _to_images(decoded: Sequence[bytes], like: Tensor) -> Tensor:
    """Interleaved RGB bytes, one picture an entry, as (B, 3, H, W) in [0, 1]; B, H, W and dtype of ``like``."""
    batch, _, height, width = like.shape
    raw = torch.frombuffer(bytearray(b"".join(decoded)), dtype=torch.uint8).view(batch, height, width, 3)
    return raw.permute(0, 3, 1, 2).to(like).contiguous() / 255


def _write(picture: Any, codec: str, options: Options) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, format=codec, **options)
    return stream.getvalue()


def _read(data: bytes, image_module: Any) -> bytes:
    with image_module.open(io.BytesIO(data)) as opened:
        return bytes(opened.convert("RGB").tobytes())


def _in_order(
    work: Callable[[Any, Options], bytes], pictures: list[Any], options: list[Options], threaded: bool
) -> list[bytes]:
    """``work`` for each picture, in order; in as many threads as torch may use where that is of any help."""
    threads = min(len(pictures), torch.get_num_threads()) if threaded else 1
    if threads == 1:
        return [work(picture, settings) for picture, settings in zip(pictures, options, strict=True)]
    # Started anew in each call: a pool that is kept would be dead, and waited for, in a forked worker process.
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(work, pictures, options))


def _recode(images: Tensor, operator: str, codec: str, options: list[Options]) -> Tensor:
    """Write and read each image (8 bits a channel) with Pillow, on the CPU.

    Args:
        images: (B, 3, H, W) in [0, 1].
        operator: who asks, for the message where the codec is missing.
        codec: ``"JPEG"``, ``"WEBP"``, ``"JPEG2000"`` or ``"AVIF"``.
        options: what ``Image.save`` is to be told, one entry an image.

    Raises:
        MissingExtra: Pillow is not installed, or was built without the codec.
    """
    image_module = pillow_with(codec, operator)

    def once(picture: Any, settings: Options) -> bytes:
        return _read(_write(picture, codec, settings), image_module)

    decoded = _in_order(once, _to_pictures(images, image_module), options, codec in _THREADED)
    return _to_images(decoded, images)


def _whole(parameter: Tensor) -> list[int]:
    return [round(value) for value in parameter.tolist()]


def jpeg(images: Tensor, quality: Tensor, generator: Randomness) -> Tensor:
    """JPEG with 4:2:0 chroma; quality 1..95, rounded."""
    return _recode(images, "jpeg", "JPEG", [{"quality": q, "subsampling": 2} for q in _whole(quality)])


def webp(images: Tensor, quality: Tensor, generator: Randomness) -> Tensor:
    """Lossy WebP; quality 0..100, rounded."""
    return _recode(images, "webp", "WEBP", [{"quality": q, "method": 0} for q in _whole(quality)])


_J2K_HEADERS = 180


def jpeg2000(images: Tensor, rate: Tensor, generator: Randomness) -> Tensor:
    """JPEG 2000, irreversible colour and wavelet transforms; rate = how many times smaller than the raw picture.

    Headers do not count: a small picture would have nothing but headers at a rate that a large one bears.
    """
    # each resolution halves the picture: OpenJPEG refuses to go below one pixel
    resolutions = min(6, int(math.log2(min(images.shape[-2:]))) + 1)
    # without the colour transform it spends a third more time and its bits on saying everything three times
    shared: Options = {"quality_mode": "rates", "irreversible": True, "mct": 1, "no_jp2": True}
    shared["num_resolutions"] = resolutions
    raw = 3 * images.shape[-2] * images.shape[-1]
    asked = [max(1.0, raw / (raw / r + _J2K_HEADERS)) for r in rate.tolist()]
    return _recode(images, "jpeg2000", "JPEG2000", [{"quality_layers": [r], **shared} for r in asked])


def avif(images: Tensor, quality: Tensor, generator: Randomness) -> Tensor:
    """AVIF (AV1 intra coding) with 4:2:0 chroma; quality 0..100, rounded."""
    # one thread and no tiles of its own choice: the same bytes whatever the machine
    shared: Options = {"speed": 9, "max_threads": 1, "autotiling": False}
    return _recode(images, "avif", "AVIF", [{"quality": q, **shared} for q in _whole(quality)])


_GENERATIONS = 5
_FIRST_QUALITY = 95.0


def repeated_jpeg(images: Tensor, quality: Tensor, generator: Randomness) -> Tensor:
    """Generation loss: five rounds of JPEG (4:2:0), each moved against the block grid, down to ``quality``.

    The quality falls geometrically from 95 in the first round to ``quality`` in the last. Before each round the picture
    grows by 0..7 repeated rows above and columns to the left, which are cut off afterwards: what cropping between
    uploads does to the 8x8 grid.
    """
    image_module = pillow_with("JPEG", "repeated_jpeg")
    batch = images.shape[0]
    offsets = (filters.uniform((batch, _GENERATIONS, 2), torch.empty(0), generator) * 8).long().clamp(max=7).tolist()
    height, width = images.shape[-2:]
    decoded = []
    for picture, last, places in zip(_to_pictures(images, image_module), quality.tolist(), offsets, strict=True):
        for index, (top, left) in enumerate(places):
            share = index / (_GENERATIONS - 1)
            asked = round(_FIRST_QUALITY * (min(last, _FIRST_QUALITY) / _FIRST_QUALITY) ** share)
            moved = image_module.new("RGB", (width + left, height + top))
            # the edge pixels, stretched, and the corner between them: a hard frame would ring into the picture
            moved.paste(picture.getpixel((0, 0)), (0, 0, left, top))
            moved.paste(picture.resize((width, 1), box=(0, 0, width, 1)).resize((width, top + 1)), (left, 0))
            moved.paste(picture.resize((1, height), box=(0, 0, 1, height)).resize((left + 1, height)), (0, top))
            moved.paste(picture, (left, top))
            stored = _write(moved, "JPEG", {"quality": asked, "subsampling": 2})
            with image_module.open(io.BytesIO(stored)) as opened:
                picture = opened.convert("RGB").crop((left, top, left + width, top + height))
        decoded.append(picture.tobytes())
    return _to_images(decoded, images)


_NOISE_TIMES_QUALITY = 1.5


def noisy_jpeg(images: Tensor, sigma: Tensor, generator: Randomness) -> Tensor:
    """A noisy picture, compressed: white Gaussian noise of ``sigma`` in R, G and B, then JPEG of quality 1.5 / sigma.

    The quality falls as the noise grows (75 at 0.02, 10 at 0.15), so that what the coefficients keep of the noise turns
    from grain into patches of stray basis functions.
    """
    noise = filters.normal(tuple(images.shape), images, generator)
    noisy = (images + filters.column(sigma, images) * noise).clamp(0, 1)
    wanted = [min(95, max(1, round(_NOISE_TIMES_QUALITY / max(s, 1e-3)))) for s in sigma.tolist()]
    return _recode(noisy, "noisy_jpeg", "JPEG", [{"quality": q, "subsampling": 2} for q in wanted])


_SENT_QUALITY = 85
_SEGMENTS_A_ROW = 8
_MCU = 16
_GARBLED = 4
_RESTART = re.compile(rb"\xff[\xd0-\xd7]")


def _scan_start(data: bytes) -> int:
    """Where the entropy-coded bytes of a one-scan JPEG begin (ITU-T T.81, B.2.3: after the SOS header)."""
    marker = data.rindex(b"\xff\xda")
    return marker + 2 + int.from_bytes(data[marker + 2 : marker + 4], "big")


def _garble(segment: bytes, place: float, values: Sequence[int]) -> bytes:
    """Overwrite a few bytes of a restart segment; never makes or breaks a marker, never changes the length."""
    changed = bytearray(segment)
    start = max(0, min(int(place * len(segment)), len(segment) - len(values)))
    for index in range(start, min(start + len(values), len(segment))):
        after_prefix = index > 0 and segment[index - 1] == 0xFF
        if segment[index] != 0xFF and not after_prefix:
            changed[index] = min(segment[index] ^ values[index - start], 0xFE)
    return bytes(changed)


def _transmit(data: bytes, ranks: Sequence[float], share: float, places: Sequence[float], values: Any) -> bytes:
    """The JPEG file ``data`` as it arrives: ceil(share * n) of its n restart segments garbled, lowest rank first.

    The first to be hit are hit near their end, where little is left to spoil.
    """
    start = _scan_start(data)
    body, tail = data[start:-2], data[-2:]
    marks = _RESTART.findall(body)
    segments = _RESTART.split(body)
    count = max(1, math.ceil(share * len(segments)))
    order = sorted(range(len(segments)), key=lambda k: ranks[k])
    for index, k in enumerate(order[:count]):
        reach = math.sqrt((index + 1) / len(segments)) * (1 - places[k] / 2)
        segments[k] = _garble(segments[k], 1 - reach, values[k])
    joined = b"".join(part + mark for part, mark in zip(segments, [*marks, b""], strict=True))
    return data[:start] + joined + tail


def jpeg_errors(images: Tensor, share: Tensor, generator: Randomness) -> Tensor:
    """Transmission errors: bytes of a JPEG's entropy-coded data overwritten, and what is left decoded.

    The picture is coded at quality 85 with restart markers eight times a row of 16x16 blocks; ``share`` of the pieces
    between them is hit, each by up to four wrong bytes, from where to its end the decoder reads nonsense.
    Pixels that decode as without errors are those of the input. A file that cannot be decoded at all counts as unhit.
    """
    image_module = pillow_with("JPEG", "jpeg_errors")
    batch, _, height, width = images.shape
    per_row = -(-width // _MCU)
    interval = max(1, per_row // _SEGMENTS_A_ROW)
    count = -(-per_row * -(-height // _MCU) // interval)
    drawn = filters.uniform((batch, 2 + _GARBLED, count), torch.empty(0), generator)
    options: Options = {"quality": _SENT_QUALITY, "subsampling": 2, "restart_marker_blocks": interval}
    clean, hit = [], []
    for k, picture in enumerate(_to_pictures(images, image_module)):
        sent = _write(picture, "JPEG", options)
        # 1..255: every byte that may change does
        values = (1 + (drawn[k, 2:] * 255).long().clamp(max=254)).T.tolist()
        received = _transmit(sent, drawn[k, 0].tolist(), float(share[k]), drawn[k, 1].tolist(), values)
        clean.append(_read(sent, image_module))
        try:
            hit.append(_read(received, image_module))
        except OSError:
            hit.append(clean[-1])
    before, after = _to_images(clean, images), _to_images(hit, images)
    return torch.where((before == after).all(1, keepdim=True), images, after)


DISTORTIONS: tuple[Distortion, ...] = (
    Distortion(
        "jpeg",
        "compression",
        {"blocking": 1.0, "ringing": 0.5},
        (92.0, 3.0),
        jpeg,
        geometric=True,
        source="ITU-T T.81 as libjpeg scales its tables; from hardly visible to where a few DC steps are left",
        codec="JPEG",
        dominance=False,
        smooths=True,
    ),
    Distortion(
        "webp",
        "compression",
        {"blocking": 1.0, "blur": 0.5, "ringing": 0.5},
        (92.0, 0.0),
        webp,
        source="RFC 9649 (VP8 key frames), libwebp; the whole useful range of its quality",
        codec="WEBP",
        dominance=False,
        smooths=True,
    ),
    Distortion(
        "jpeg2000",
        "compression",
        {"blur": 1.0, "ringing": 1.0},
        (20.0, 1200.0),
        jpeg2000,
        geometric=True,
        source="ITU-T T.800, OpenJPEG; own range, to where the coarsest wavelets are left",
        codec="JPEG2000",
        dominance=False,
        smooths=True,
    ),
    Distortion(
        "avif",
        "compression",
        {"blur": 1.0, "ringing": 0.5, "blocking": 0.5},
        (80.0, 0.0),
        avif,
        source="AV1 Image File Format 1.1, libavif; the useful range of its quality",
        codec="AVIF",
        dominance=False,
        smooths=True,
    ),
    Distortion(
        "repeated_jpeg",
        "compression",
        {"blocking": 1.0, "ringing": 1.0, "blur": 0.5},
        (92.0, 3.0),
        repeated_jpeg,
        geometric=True,
        source="own construction: five saves with a crop between them, as pictures are passed on",
        codec="JPEG",
        dominance=False,
        smooths=True,
    ),
    Distortion(
        "noisy_jpeg",
        "compression",
        {"noise": 1.0, "blocking": 0.5},
        (0.009, 0.2),
        noisy_jpeg,
        geometric=True,
        source="TID2013 type 21 (lossy compression of noisy images); quality tied to the noise: own construction",
        codec="JPEG",
        dominance=False,
        smooths=True,
    ),
    Distortion(
        "jpeg_errors",
        "compression",
        {"occlusion": 1.0, "blocking": 0.5},
        (0.004, 0.6),
        jpeg_errors,
        geometric=True,
        source="TID2013 type 12 (JPEG transmission errors); ITU-T T.81 restart intervals",
        codec="JPEG",
        dominance=False,
        inclusion=False,
    ),
)
"""No dominance: a coder spends its bits elsewhere once something else has acted, and can hide it."""
