import builtins
import sys

import numpy as np
import pytest
import torch
from icc import cmyk_profile, grey_profile, rgb_profile

from relqa_loss.images import read_image
from relqa_loss.validation import MissingExtra

Image = pytest.importorskip("PIL.Image")
ImageCms = pytest.importorskip("PIL.ImageCms")

needs_deep = pytest.mark.usefixtures("deep")


@pytest.fixture
def deep():
    pytest.importorskip("imagecodecs")
    pytest.importorskip("tifffile")


@pytest.fixture
def ramp():
    """(20, 24, 3) uint16 in which no two values of a channel share their upper 8 bits with a neighbour only."""
    return np.arange(20 * 24 * 3, dtype=np.uint16).reshape(20, 24, 3) * 45


def srgb_of_linear(linear):
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * np.maximum(linear, 1e-9) ** (1 / 2.4) - 0.055)


def as_image(values):
    return torch.from_numpy(values.astype(np.float32) / 65535).permute(2, 0, 1)


def save_deep(path, values, **options):
    import imagecodecs
    import tifffile

    if path.suffix == ".png":
        path.write_bytes(imagecodecs.png_encode(values))
    else:
        tifffile.imwrite(path, values, photometric="rgb" if values.shape[-1] >= 3 else "minisblack", **options)


@needs_deep
@pytest.mark.parametrize(
    "name, options",
    [
        ("a.png", {}),
        ("a.tif", {}),
        ("a.tif", {"byteorder": ">"}),
        ("a.tif", {"compression": "lzw", "predictor": True}),
        ("a.tif", {"compression": "zlib"}),
    ],
)
def test_every_one_of_16_bits_is_kept(tmp_path, ramp, name, options):
    save_deep(tmp_path / name, ramp, **options)
    back = read_image(tmp_path / name)
    assert torch.equal((back * 65535).round().to(torch.int32), torch.from_numpy(ramp.astype(np.int32)).permute(2, 0, 1))


@needs_deep
def test_planes_apart_and_white_as_zero_are_understood(tmp_path, ramp):
    import tifffile

    tifffile.imwrite(
        tmp_path / "a.tif", np.ascontiguousarray(ramp.transpose(2, 0, 1)), photometric="rgb", planarconfig="separate"
    )
    assert torch.allclose(read_image(tmp_path / "a.tif"), as_image(ramp), atol=1e-7)
    tifffile.imwrite(tmp_path / "b.tif", ramp[..., 0], photometric="miniswhite")
    assert torch.allclose(read_image(tmp_path / "b.tif")[1], 1 - as_image(ramp)[0], atol=1e-6)


@needs_deep
@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_opacity_of_16_bits_lets_white_through(tmp_path, ramp, name):
    opacity = np.full((20, 24, 1), 16384, dtype=np.uint16)
    save_deep(
        tmp_path / name,
        np.concatenate([ramp, opacity], axis=-1),
        **({} if name.endswith("png") else {"extrasamples": ["unassalpha"]}),
    )
    share = 16384 / 65535
    assert torch.allclose(read_image(tmp_path / name), as_image(ramp) * share + (1 - share), atol=1e-6)


@needs_deep
def test_colours_multiplied_with_their_opacity_are_laid_over_white_once(tmp_path, ramp):
    half = (ramp // 2).astype(np.uint16)
    opacity = np.full((20, 24, 1), 32768, dtype=np.uint16)
    save_deep(tmp_path / "a.tif", np.concatenate([half, opacity], axis=-1), extrasamples=["assocalpha"])
    assert torch.allclose(read_image(tmp_path / "a.tif"), as_image(half) + (1 - 32768 / 65535), atol=1e-5)


@needs_deep
@pytest.mark.parametrize("orientation", range(1, 9))
def test_deep_pictures_are_turned_as_shallow_ones_are(tmp_path, ramp, orientation):
    import tifffile

    shallow = (ramp // 257).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(shallow).save(tmp_path / "a.png", exif=exif)
    tifffile.imwrite(
        tmp_path / "b.tif",
        shallow.astype(np.uint16) * 257,
        photometric="rgb",
        extratags=[(0x0112, 3, 1, orientation, True)],
    )
    assert torch.allclose(read_image(tmp_path / "a.png"), read_image(tmp_path / "b.tif"), atol=1e-6)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["grey of 8 bits", "grey of 16 bits", "RGB", "RGBA"])
def test_uncompressed_tiff_is_turned_as_png_is(tmp_path, ramp, kind, orientation):
    shallow = (ramp // 257).astype(np.uint8)
    opacity = np.full((20, 24, 1), 255, dtype=np.uint8)
    pixels = {
        "grey of 8 bits": shallow[..., 1],
        "grey of 16 bits": shallow[..., 1].astype(np.uint16) * 257,
        "RGB": shallow,
        "RGBA": np.concatenate([shallow, opacity], axis=-1),
    }[kind]
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(tmp_path / "a.tif", exif=exif)
    Image.fromarray(shallow[..., 1] if "grey" in kind else shallow).save(tmp_path / "b.png", exif=exif)
    assert torch.allclose(read_image(tmp_path / "a.tif"), read_image(tmp_path / "b.png"), atol=1e-6)


def test_what_is_no_picture_is_named_without_the_reader_of_it(tmp_path):
    (tmp_path / "a.png").write_text("words")
    with pytest.raises(ValueError, match=r"cannot read .*a\.png: cannot identify image file 'a\.png'$"):
        read_image(tmp_path / "a.png")


def test_a_profile_is_converted_to_srgb(tmp_path):
    linear = np.broadcast_to(np.arange(0, 256, 5, dtype=np.uint8), (16, 52))
    picture = np.stack([linear, linear[:, ::-1], np.full_like(linear, 90)], axis=-1)
    Image.fromarray(picture).save(tmp_path / "a.png", icc_profile=rgb_profile(1.0))
    wanted = torch.from_numpy(srgb_of_linear(picture / 255.0)).permute(2, 0, 1).float()
    assert (read_image(tmp_path / "a.png") - wanted).abs().max() < 2.5 / 255


@needs_deep
def test_a_profile_of_a_deep_picture_is_converted_in_16_bits(tmp_path, ramp):
    import tifffile

    profile = rgb_profile(1.0)
    tifffile.imwrite(tmp_path / "a.tif", ramp, photometric="rgb", extratags=[(34675, 7, len(profile), profile, True)])
    wanted = torch.from_numpy(srgb_of_linear(ramp / 65535.0)).permute(2, 0, 1).float()
    back = read_image(tmp_path / "a.tif")
    assert (back - wanted).abs().max() < 0.004 and len(back.unique()) > 1200


def test_srgb_under_another_name_leaves_every_pixel_alone(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (16, 20, 3), dtype=np.uint8)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.fromarray(pixels).save(tmp_path / "a.png", icc_profile=profile)
    assert torch.equal(read_image(tmp_path / "a.png"), torch.from_numpy(pixels).permute(2, 0, 1).float() / 255)


def test_grey_takes_a_grey_profile_and_one_of_colour(tmp_path):
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    wanted = torch.from_numpy(srgb_of_linear((grey / 255.0) ** 1.8)).float()
    for profile in (grey_profile(1.8), rgb_profile(1.8)):
        Image.fromarray(grey).save(tmp_path / "a.png", icc_profile=profile)
        back = read_image(tmp_path / "a.png")
        assert (back - wanted).abs().max() < 2.5 / 255 and (back[0] - back[2]).abs().max() <= 1.01 / 255


def test_transparent_grey_takes_a_grey_profile(tmp_path):
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    wanted = torch.from_numpy(srgb_of_linear((grey / 255.0) ** 1.8)).float()
    opaque = np.full_like(grey, 255)
    opaque[:, 8:] = 0
    Image.fromarray(np.stack([grey, opaque], axis=-1), "LA").save(tmp_path / "a.png", icc_profile=grey_profile(1.8))
    back = read_image(tmp_path / "a.png")
    assert (back[:, :, :8] - wanted[:, :8]).abs().max() < 2.5 / 255
    assert (back[:, :, 8:] == 1).all()


def test_cmyk_with_a_profile_is_read(tmp_path):
    inks = np.zeros((16, 32, 4), dtype=np.uint8)
    inks[:, 16:, 3] = 255
    Image.fromarray(inks, "CMYK").save(tmp_path / "a.tif", icc_profile=cmyk_profile())
    image = read_image(tmp_path / "a.tif")
    assert image[:, 8, 4].min() > 0.98 and image[:, 8, 28].max() < 0.02


def test_a_profile_that_cannot_be_applied_is_one_clear_error(tmp_path):
    picture = Image.new("RGB", (16, 16), (10, 20, 30))
    picture.save(tmp_path / "a.png", icc_profile=b"not a profile at all" * 20)
    with pytest.raises(ValueError, match=r"a\.png: its colour profile cannot be applied"):
        read_image(tmp_path / "a.png")
    picture.save(tmp_path / "b.png", icc_profile=cmyk_profile())
    with pytest.raises(ValueError, match=r"b\.png: its colour profile is one for CMYK, its pixels are RGB"):
        read_image(tmp_path / "b.png")


@needs_deep
def test_deep_colour_without_its_reader_names_the_extra_and_drops_no_bits(tmp_path, ramp, monkeypatch):
    save_deep(tmp_path / "a.png", ramp)
    real = builtins.__import__

    def absent(name, *rest):
        if name == "imagecodecs":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(MissingExtra, match=r"16 bits of a\.png: pip install \"relqa_loss\[deep\]\""):
        read_image(tmp_path / "a.png")


def test_a_deep_grey_picture_with_a_profile_is_named_without_what_applies_it(tmp_path, monkeypatch):
    deep = np.linspace(0, 65535, 400).astype(np.uint16).reshape(20, 20)
    Image.fromarray(deep).save(tmp_path / "grey.png", icc_profile=grey_profile(1.0))
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    with pytest.raises(MissingExtra, match=r"profile of grey\.png, of 16 bits: pip install"):
        read_image(tmp_path / "grey.png")


@needs_deep
def test_a_broken_deep_file_is_one_clear_error(tmp_path, ramp):
    save_deep(tmp_path / "a.png", ramp)
    whole = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"cannot read .*a\.png"):
        read_image(tmp_path / "a.png")
