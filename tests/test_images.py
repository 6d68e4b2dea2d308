from pathlib import Path

import numpy as np
import pytest
import torch

from relqa_loss.images import list_images, read_folder, read_image, to_bytes, write_image

Image = pytest.importorskip("PIL.Image")
features = pytest.importorskip("PIL.features")


@pytest.fixture
def picture():
    return torch.rand(3, 20, 33, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("suffix", [".png", ".webp", ".tiff", ".TIF"])
def test_lossless_formats_come_back_to_the_nearest_8_bit_value(tmp_path, picture, suffix):
    path = write_image(tmp_path / "new" / f"a{suffix}", picture)
    back = read_image(path)
    assert back.shape == (3, 20, 33) and back.dtype == torch.float32
    assert (back - picture).abs().max() <= 0.5 / 255 + 1e-6
    assert torch.equal(read_image(write_image(path, back)), back)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_bytes_are_the_nearest_step_within_the_range(dtype):
    levels = torch.tensor([-0.5, 0.0, 0.25, 1.0, 1.5], dtype=dtype, requires_grad=True)
    pixels = to_bytes(levels.expand(3, 2, 5))
    assert pixels.dtype == np.uint8 and pixels.shape == (2, 5, 3) and pixels.flags.c_contiguous
    assert pixels[0, :, 0].tolist() == [0, 0, 64, 255, 255]


@pytest.mark.parametrize("suffix", ["jpg", "avif"])
def test_lossy_formats_come_back_nearly(tmp_path, suffix):
    if suffix == "avif" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF codec")
    smooth = torch.linspace(0, 1, 48).expand(3, 32, 48)
    assert (read_image(write_image(tmp_path / f"a.{suffix}", smooth)) - smooth).abs().max() < 0.05


def test_write_clamps_and_takes_a_batch_of_one(tmp_path):
    image = torch.tensor([-1.0, 0.5, 2.0]).view(1, 3, 1, 1).expand(1, 3, 16, 16)
    assert read_image(write_image(tmp_path / "a.png", image))[:, 0, 0].tolist() == pytest.approx([0, 128 / 255, 1])


@pytest.mark.parametrize("shape", [(2, 3, 16, 16), (1, 16, 16), (16, 16)])
def test_write_names_a_wrong_shape(tmp_path, shape):
    with pytest.raises(ValueError, match=r"\(3, H, W\)"):
        write_image(tmp_path / "a.png", torch.zeros(shape))


def test_write_refuses_integers_and_leaves_the_old_file_if_it_fails(tmp_path, monkeypatch):
    path = write_image(tmp_path / "a.png", torch.full((3, 16, 16), 0.5))
    before = path.read_bytes()
    with pytest.raises(TypeError, match=r"image must be of a floating dtype, in \[0, 1\], got torch.uint8"):
        write_image(path, torch.full((3, 16, 16), 128, dtype=torch.uint8))

    def fail(picture, file, *_, **__):
        Path(file).write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        write_image(path, torch.zeros(3, 16, 16))
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.png"]


def test_write_names_an_unknown_ending(tmp_path):
    with pytest.raises(ValueError, match=r"\.png"):
        write_image(tmp_path / "a.gif", torch.zeros(3, 16, 16))


@pytest.mark.parametrize("orientation, turn", [(1, 0), (3, 2), (6, 3), (8, 1)])
def test_exif_rotation_is_applied(tmp_path, orientation, turn):
    pixels = np.random.default_rng(0).integers(0, 256, (24, 18, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    wanted = torch.rot90(torch.from_numpy(pixels).permute(2, 0, 1), turn, (1, 2)).float() / 255
    assert torch.equal(read_image(tmp_path / "a.png"), wanted)


def test_grey_has_equal_channels(tmp_path):
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    Image.fromarray(grey).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png")
    assert torch.equal(image, (torch.from_numpy(grey).float() / 255).expand(3, 16, 16))


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_16_bit_grey_keeps_its_precision(tmp_path, suffix):
    deep = np.linspace(0, 65535, 400).astype(np.uint16).reshape(20, 20)
    Image.fromarray(deep).save(tmp_path / f"a.{suffix}")
    image = read_image(tmp_path / f"a.{suffix}")
    assert torch.allclose(image[1], torch.from_numpy(deep.astype(np.float32) / 65535), atol=1e-7)
    assert len(image[0].unique()) == 400


def test_transparent_pixels_lie_over_white_and_opaque_ones_are_kept(tmp_path):
    pixels = np.zeros((16, 16, 4), dtype=np.uint8)
    pixels[:, :8] = (200, 100, 50, 255)
    pixels[:, 8:] = (200, 100, 50, 0)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png")
    assert image[:, 0, 0].tolist() == pytest.approx([200 / 255, 100 / 255, 50 / 255])
    assert image[:, 0, 15].tolist() == [1, 1, 1]


def test_palette_is_resolved(tmp_path):
    picture = Image.new("RGB", (16, 16), (10, 200, 30)).convert("P", palette=Image.Palette.ADAPTIVE)
    picture.save(tmp_path / "a.png")
    assert (read_image(tmp_path / "a.png")[:, 3, 3] * 255).round().tolist() == [10, 200, 30]


@pytest.mark.parametrize(
    "mode, suffix, reason",
    [
        ("CMYK", "jpg", "'CMYK' without a colour profile"),
        ("F", "tiff", r"32 bits \(float"),
        ("I", "tiff", r"32 bits \(signed"),
    ],
)
def test_a_pixel_format_without_a_range_is_one_clear_error(tmp_path, mode, suffix, reason):
    path = tmp_path / f"a.{suffix}"
    Image.new(mode, (16, 16)).save(path)
    with pytest.raises(ValueError, match=f"{path.name}.*{reason}"):
        read_image(path)


def test_float_colour_and_an_empty_file_are_told_from_what_is_no_picture(tmp_path):
    tifffile = pytest.importorskip("tifffile")
    tifffile.imwrite(tmp_path / "float.tif", np.zeros((16, 16, 3), np.float32), photometric="rgb")
    with pytest.raises(ValueError, match=r"float\.tif: TIFF pixels .* no defined range here; convert them"):
        read_image(tmp_path / "float.tif")
    (tmp_path / "empty.png").touch()
    with pytest.raises(ValueError, match=r"empty\.png: the file is empty"):
        read_image(tmp_path / "empty.png")


def test_what_is_no_photograph_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.png"):
        read_image(tmp_path / "nowhere.png")
    with pytest.raises(ValueError, match="folder"):
        read_image(tmp_path)
    (tmp_path / "text.png").write_text("not a picture")
    with pytest.raises(ValueError, match=r"text\.png"):
        read_image(tmp_path / "text.png")


def test_folder_lists_photographs_by_name(tmp_path, picture):
    for name in ("b.png", "a.JPG", "c.webp", ".hidden.png"):
        write_image(tmp_path / name, picture)
    (tmp_path / "notes.txt").write_text("x")
    assert [p.name for p in list_images(tmp_path)] == ["a.JPG", "b.png", "c.webp"]
    for name in ("in/d.png", ".ipynb_checkpoints/e.png", "in/.Trash/files/f.png"):
        write_image(tmp_path / name, picture)
    assert [p.name for p in list_images(tmp_path, recursive=True)] == ["a.JPG", "b.png", "c.webp", "d.png"]
    # Whoever names a hidden folder wants what is in it.
    assert [p.name for p in list_images(tmp_path / "in" / ".Trash", recursive=True)] == ["f.png"]


def test_folder_names_and_skips_what_it_cannot_read(tmp_path, picture):
    write_image(tmp_path / "a.png", picture)
    whole = (tmp_path / "a.png").read_bytes()
    (tmp_path / "b.png").write_bytes(whole[: len(whole) // 2])
    write_image(tmp_path / "c.png", picture[:, :15])
    write_image(tmp_path / "d.png", picture)
    folder = read_folder(tmp_path)
    assert folder.names == ("a.png", "d.png") and len(folder.images) == 2
    assert [name for name, _ in folder.skipped] == ["b.png", "c.png"]
    assert "15x33" in folder.skipped[1][1]
    assert read_folder(tmp_path, limit=1).names == ("a.png",)
    # The limit counts those that can be used.
    write_image(tmp_path / "a.png", picture[:, :17])
    large = read_folder(tmp_path, limit=1, smallest_side=20)
    assert large.names == ("d.png",) and large.skipped[0] == ("a.png", "smaller than 20x20 pixels: 17x33")
    # Below 16 pixels nothing here works.
    assert [name for name, _ in read_folder(tmp_path, smallest_side=8).skipped] == ["b.png", "c.png"]


def test_a_folder_without_a_readable_photograph_is_one_clear_error(tmp_path):
    with pytest.raises(ValueError, match="no photograph"):
        read_folder(tmp_path)
    with pytest.raises(ValueError, match="not there"):
        read_folder(tmp_path / "nowhere")
    (tmp_path / "a.png").write_text("x")
    with pytest.raises(ValueError, match=r"none of the 1 .*a\.png"):
        read_folder(tmp_path)
