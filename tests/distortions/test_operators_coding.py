"""Codecs, coding artefacts and resampling: what is special to each operator."""

from __future__ import annotations

import io
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from relqa_loss.distortions import codecs, filters
from relqa_loss.distortions.availability import can_run, has_codec, missing_codecs
from relqa_loss.distortions.bank import BANK, by_name
from relqa_loss.distortions.compression import _lift, _unlift
from relqa_loss.distortions.draws import Streams
from relqa_loss.distortions.record import Distortion
from relqa_loss.images import MissingExtra

CODED = [one for one in BANK if one.codec is not None]
SEEDED = ["repeated_jpeg", "noisy_jpeg", "jpeg_errors", "comfort_noise", "jpeg2000_errors", "sparse_sampling"]


def photo_like(batch: int = 1, height: int = 96, width: int = 96) -> Tensor:
    """Smooth colour, a disc with a hard edge and fine texture, in the middle of the range."""
    g = torch.Generator().manual_seed(11)
    soft = torch.nn.functional.interpolate(torch.rand(batch, 3, 4, 4, generator=g), (height, width), mode="bicubic")
    y = torch.linspace(-1, 1, height).view(1, 1, height, 1)
    x = torch.linspace(-1, 1, width).view(1, 1, 1, width)
    disc = torch.tensor([0.3, -0.1, 0.2]).view(1, 3, 1, 1) * ((x**2 + y**2) < 0.4)
    return (0.2 + 0.5 * soft + disc + 0.05 * torch.randn(batch, 1, height, width, generator=g)).clamp(0.02, 0.98)


def apply(name: str, images: Tensor, parameter: float | list[float], seed: int = 0) -> Tensor:
    operator = by_name(name)
    assert operator.apply is not None
    values = torch.tensor(parameter) if isinstance(parameter, list) else torch.full((images.shape[0],), parameter)
    return operator.apply(images, values, torch.Generator().manual_seed(seed))


def at(operator: Distortion, images: Tensor, position: float, seed: int = 0) -> Tensor:
    return apply(operator.name, images, [float(operator.parameter_at(torch.tensor(position)))] * images.shape[0], seed)


@pytest.mark.parametrize("name", SEEDED)
def test_with_streams_an_image_does_not_depend_on_its_batch_mates(name: str) -> None:
    operator = by_name(name)
    assert operator.apply is not None
    images = photo_like(3, 40, 56)
    parameter = operator.parameter_at(torch.tensor([0.3, 0.6, 1.0]))
    together = operator.apply(images, parameter, Streams([5, 6, 7], torch.device("cpu")))
    for k in range(3):
        alone = operator.apply(images[k : k + 1], parameter[k : k + 1], Streams([5 + k], torch.device("cpu")))
        torch.testing.assert_close(together[k : k + 1], alone, atol=1e-6, rtol=0)


@pytest.mark.parametrize("operator", CODED, ids=lambda one: one.name)
def test_threads_change_neither_bytes_nor_order(operator: Distortion, monkeypatch: pytest.MonkeyPatch) -> None:
    images = photo_like(8, 48, 48)
    single = []
    for threads in (1, 4):
        monkeypatch.setattr(torch, "get_num_threads", lambda n=threads: n)
        single.append(at(operator, images, 0.7))
    assert torch.equal(*single)
    if operator.name not in SEEDED:
        for k in range(8):
            assert torch.equal(single[1][k : k + 1], at(operator, images[k : k + 1], 0.7))


@pytest.mark.parametrize("operator", CODED, ids=lambda one: one.name)
def test_coded_pictures_have_eight_bits(operator: Distortion) -> None:
    images = torch.round(photo_like(1, 32, 32) * 255) / 255
    result = at(operator, images, 0.5) * 255
    torch.testing.assert_close(result, result.round(), atol=1e-4, rtol=0)


@pytest.mark.parametrize("operator", CODED, ids=lambda one: one.name)
def test_a_missing_codec_is_named_with_the_operator_that_needs_it(
    operator: Distortion, monkeypatch: pytest.MonkeyPatch
) -> None:
    features = pytest.importorskip("PIL.features")
    monkeypatch.setattr(features, "check", lambda name: False)
    assert not can_run(operator)
    assert missing_codecs([operator, by_name("block_dct")]) == {operator.name: operator.codec}
    with pytest.raises(MissingExtra, match=rf"distortion '{operator.name}', Pillow built with {operator.codec}: pip"):
        at(operator, photo_like(1, 16, 16), 0.5)


def test_a_pillow_that_has_not_heard_of_a_codec_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    features = pytest.importorskip("PIL.features")
    monkeypatch.delitem(features.modules, "avif")
    monkeypatch.setattr(features, "features", {k: v for k, v in features.features.items() if k != "avif"})
    monkeypatch.setattr(features, "check", lambda name: pytest.fail("asked") if name == "avif" else True)
    assert not has_codec("AVIF")
    assert has_codec("JPEG")


def _segments(image: Tensor, interval: int) -> tuple[bytes, int]:
    picture = codecs._to_pictures(image, pytest.importorskip("PIL.Image"))[0]
    data = codecs._write(picture, "JPEG", {"quality": 85, "subsampling": 2, "restart_marker_blocks": interval})
    return data, len(codecs._RESTART.split(data[codecs._scan_start(data) : -2]))


def test_restart_segments_are_found_where_they_are() -> None:
    # 5 x 6 blocks of 16 pixels, two to a segment, whatever the rows
    data, count = _segments(photo_like(1, 90, 80), 2)
    assert count == 15
    assert data[-2:] == b"\xff\xd9"


def test_garbled_segments_hold_no_marker_and_keep_their_length() -> None:
    g = torch.Generator().manual_seed(0)
    segment = b"\xff\x00\x12\xff\x00\xff\x00\x99" * 3 + b"\x01\xfe"
    for _ in range(200):
        place = float(torch.rand((), generator=g))
        values = torch.randint(1, 256, (4,), generator=g).tolist()
        changed = codecs._garble(segment, place, values)
        assert len(changed) == len(segment)
        follows = [changed[k + 1] for k in range(len(changed) - 1) if changed[k] == 0xFF]
        assert follows == [0] * 9
        assert changed[-1] != 0xFF
    assert codecs._garble(b"", 0.5, [1, 2, 3, 4]) == b""
    assert codecs._garble(b"\x07", 0.9, [1, 2, 3, 4]) == b"\x06"


def test_transmission_errors_are_nested_and_leave_the_rest_alone() -> None:
    images = photo_like(2, 128, 128)
    shares = [0.02, 0.1, 0.3, 0.6]
    results = [apply("jpeg_errors", images, share, seed=4) for share in shares]
    hit = [(result != images).any(1) for result in results]
    assert 0 < hit[0].float().mean() < 0.1
    for earlier, later in pairwise(hit):
        assert later.sum() > earlier.sum()
        # upsampled chroma may look over the fence, so a pixel beside later damage can change once more
        assert (earlier & ~later).float().mean() < 0.002
    kept = hit[0] & (results[0] == results[1]).all(1)
    assert kept.sum() > 0.9 * hit[0].sum()


def test_transmission_errors_never_raise() -> None:
    g = torch.Generator().manual_seed(1)
    for seed in range(40):
        height, width = torch.randint(16, 70, (2,), generator=g).tolist()
        images = torch.rand(1, 3, height, width, generator=g) if seed % 2 else photo_like(1, height, width)
        assert apply("jpeg_errors", images, 1.0, seed).isfinite().all()


def test_a_file_that_cannot_be_decoded_counts_as_unhit(monkeypatch: pytest.MonkeyPatch) -> None:
    images = photo_like(2, 32, 32)
    monkeypatch.setattr(codecs, "_transmit", lambda data, *others: data[: codecs._scan_start(data)])
    assert torch.equal(apply("jpeg_errors", images, 0.5), images)


def _noted_writes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[tuple[int, int], dict[str, Any], int]]:
    """Size, options and bytes of every picture that is coded from now on."""
    seen: list[tuple[tuple[int, int], dict[str, Any], int]] = []
    write = codecs._write

    def noted(picture: Any, codec: str, options: codecs.Options) -> bytes:
        data = write(picture, codec, options)
        seen.append((picture.size, dict(options), len(data)))
        return data

    monkeypatch.setattr(codecs, "_write", noted)
    return seen


def test_generations_fall_in_quality_and_move_against_the_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = _noted_writes(monkeypatch)
    apply("repeated_jpeg", photo_like(1, 40, 40), 10.0, seed=2)
    qualities = [options["quality"] for _, options, _ in seen]
    assert qualities[0] == 95
    assert qualities[-1] == 10
    assert qualities == sorted(qualities, reverse=True)
    assert all(40 <= side < 48 for size, *_ in seen for side in size)
    assert len({size for size, *_ in seen}) > 1
    weaker = len(seen)
    apply("repeated_jpeg", photo_like(1, 40, 40), 60.0, seed=2)
    assert [size for size, *_ in seen[:weaker]] == [size for size, *_ in seen[weaker:]]


def test_what_is_repeated_around_a_picture_leaves_no_trace_in_its_corner() -> None:
    flat = torch.full((1, 3, 40, 40), 0.9)
    for seed in range(4):
        assert (apply("repeated_jpeg", flat, 60.0, seed=seed) - flat).abs().max() < 0.01


def test_generation_loss_is_more_than_one_save() -> None:
    images = photo_like(2)
    once, often = apply("jpeg", images, 20.0), apply("repeated_jpeg", images, 20.0)
    assert (often - images).square().mean() > 1.1 * (once - images).square().mean()


def test_noise_under_jpeg_falls_in_quality_as_it_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = _noted_writes(monkeypatch)
    result = apply("noisy_jpeg", torch.full((2, 3, 64, 64), 0.5), [0.02, 0.15])
    assert [options["quality"] for _, options, _ in seen] == [75, 10]
    assert result[0].std() > 0.005
    assert result[1].std() > 2 * result[0].std()


def test_jpeg2000_has_no_headers_only_where_a_large_picture_has_content() -> None:
    images = photo_like(1, 32, 32)
    assert at(by_name("jpeg2000"), images, 0.5).std() > 0.3 * images.std()


def test_jpeg2000_keeps_to_its_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = _noted_writes(monkeypatch)
    apply("jpeg2000", photo_like(1, 256, 256), 40.0)
    assert seen[0][2] == pytest.approx(256 * 256 * 3 / 40 + codecs._J2K_HEADERS, rel=0.05)


@pytest.mark.parametrize("name", ["chroma_subsampling", "chroma_bleeding"])
def test_chroma_damage_keeps_luma(name: str) -> None:
    images = 0.35 + 0.3 * photo_like(2)
    result = at(by_name(name), images, 0.8)
    assert (filters.luma(result) - filters.luma(images)).abs().max() < 1e-4
    assert (result - images).abs().mean() > 0.005


def test_chroma_subsampling_repeats_one_sample_a_cell() -> None:
    images = 0.35 + 0.3 * photo_like(1, 64, 64)
    chroma = filters.split_chroma(apply("chroma_subsampling", images, 8.0))[1]
    corner = chroma[..., ::8, ::8].repeat_interleave(8, 2).repeat_interleave(8, 3)
    torch.testing.assert_close(chroma, corner, atol=1e-5, rtol=0)
    before = filters.split_chroma(images)[1]
    torch.testing.assert_close(chroma[..., ::8, ::8], before[..., ::8, ::8], atol=1e-5, rtol=0)


def test_chroma_subsampling_only_grows_with_its_factor() -> None:
    images = 0.35 + 0.3 * photo_like(1, 64, 64)
    before = filters.split_chroma(images)[1]
    kept = [
        (filters.split_chroma(apply("chroma_subsampling", images, factor))[1] - before).abs() < 1e-5
        for factor in (2.0, 4.0, 8.0, 16.0)
    ]
    for finer, coarser in pairwise(kept):
        # What a coarser grid keeps at its own samples, the finer one has kept too.
        assert finer[..., ::16, ::16].all() and coarser[..., ::16, ::16].all()
        assert coarser.float().mean() < finer.float().mean()


def test_coarse_blur_has_the_stated_sigma() -> None:
    images = torch.full((1, 3, 257, 257), 0.5)
    images[..., 120:136, 120:136] += torch.tensor([0.3, -0.1, 0.1]).view(1, 3, 1, 1)
    for sigma in (3.9, 4.1, 12.0, 24.0):
        chroma = filters.split_chroma(apply("chroma_bleeding", images, sigma))[1][0, 1]
        row = (chroma - chroma[0, 0]).sum(0).double()
        place = torch.arange(257, dtype=torch.float64)
        mean = (row * place).sum() / row.sum()
        variance = (row * (place - mean) ** 2).sum() / row.sum() - (16**2 - 1) / 12
        assert float(variance) ** 0.5 == pytest.approx(sigma, rel=0.08), sigma


def test_comfort_noise_keeps_energy_and_means_of_blocks() -> None:
    images = 0.3 + 0.4 * photo_like(1, 64, 64)
    before = filters.luma(images)
    after = filters.luma(apply("comfort_noise", images, 0.1))
    cells = [t.view(8, 8, 8, 8).transpose(1, 2).reshape(64, 64) for t in (before, after)]
    torch.testing.assert_close(cells[0].mean(1), cells[1].mean(1), atol=1e-4, rtol=0)
    torch.testing.assert_close(cells[0].var(1), cells[1].var(1), atol=1e-4, rtol=1e-3)
    assert (after - before).abs().mean() > 0.01


@pytest.mark.parametrize("dim", [-1, -2])
def test_wavelet_inverts(dim: int) -> None:
    planes = torch.randn(2, 3, 64, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(_unlift(*_lift(planes, dim), dim), planes)


def test_wavelet_of_a_ramp_has_no_detail() -> None:
    ramp = torch.arange(64, dtype=torch.float64).expand(1, 1, 32, 64)
    low, high = _lift(ramp, -1)
    assert high[..., :-1].abs().max() == 0
    torch.testing.assert_close(low[..., 1:-1], ramp[..., 2:-2:2])


def test_lost_code_blocks_are_nested_and_local() -> None:
    images = 0.3 + 0.4 * photo_like(1, 256, 256)
    changes = [(apply("jpeg2000_errors", images, share, 3) - images).abs().amax(1) for share in (0.001, 0.05, 0.4)]
    hit = [change > 1e-6 for change in changes]
    assert 0 < hit[0].float().mean() < 0.5
    assert not (hit[0] & ~hit[1]).float().mean() > 0.01
    assert hit[0].sum() < hit[1].sum() < hit[2].sum()
    assert changes[0].mean() < changes[1].mean() < changes[2].mean()


def test_sparse_samples_are_kept_and_nested() -> None:
    images = photo_like(1, 64, 64)
    kept = [(apply("sparse_sampling", images, share, 6) == images).all(1) for share in (0.8, 0.3, 0.05)]
    for mask, share in zip(kept, (0.8, 0.3, 0.05), strict=True):
        assert mask.float().mean().item() == pytest.approx(share, abs=0.03)
    assert not (kept[2] & ~kept[1]).any()
    assert not (kept[1] & ~kept[0]).any()


def test_sparse_sampling_reconstructs_a_flat_and_a_sloping_picture() -> None:
    flat = torch.full((1, 3, 40, 33), 0.3)
    torch.testing.assert_close(apply("sparse_sampling", flat, 0.05), flat)
    slope = torch.linspace(0.1, 0.9, 64).expand(1, 3, 64, 64)
    assert (apply("sparse_sampling", slope, 0.3) - slope).abs().mean() < 0.02


def test_sinc_scaling_rings_where_bicubic_does_not() -> None:
    step = torch.full((1, 3, 64, 128), 0.3)
    step[..., 64:] = 0.7
    sinc, bicubic = apply("downup_sinc", step, 4.0), apply("downup_bicubic", step, 4.0)
    assert sinc.max() - 0.7 > 0.02
    far = torch.cat((sinc[..., 20:40], sinc[..., 88:108]), -1).std(-1).mean() - 0.2
    plain = torch.cat((bicubic[..., 20:40], bicubic[..., 88:108]), -1).std(-1).mean() - 0.2
    assert (sinc[..., 90:108] - 0.7).abs().max() > 5 * (bicubic[..., 90:108] - 0.7).abs().max()
    assert far > plain


def test_equal_factors_share_a_call_with_the_same_result() -> None:
    images = photo_like(3, 48, 40)
    for name in ("downup_bicubic", "downup_bilinear", "pixelate", "downup_nearest", "aliased_downsample"):
        together, mixed = apply(name, images, 2.6), apply(name, images, [2.6, 5.0, 2.6])
        torch.testing.assert_close(together[[0, 2]], mixed[[0, 2]], atol=1e-6, rtol=0)


def test_stored_codec_options_reach_the_codec() -> None:
    """The quality is what the file says: quantisation tables of a JPEG scale with it."""
    image_module = pytest.importorskip("PIL.Image")
    picture = codecs._to_pictures(photo_like(1, 32, 32), image_module)[0]
    with image_module.open(io.BytesIO(codecs._write(picture, "JPEG", {"quality": 5, "subsampling": 2}))) as opened:
        assert opened.quantization[0][0] == 160
