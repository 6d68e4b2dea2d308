import io

import pytest
import torch

from relqa_loss.figures_failures import WEBP_DPI, as_webp
from relqa_loss.figures_recovery import GAP, HEAD, LARGEST, MARGIN, recovery_sheet

image_module = pytest.importorskip("PIL.Image")
pytest.importorskip("matplotlib")


def rows(pictures):
    return {f"row {y}": [(f"column {x}", pictures[y][x], "40.0 dB") for x in range(3)] for y in range(2)}


@pytest.fixture
def pictures(make_photos):
    return (make_photos(6, 48, 64) * 255).round().div(255).view(2, 3, 3, 48, 64)


def test_every_pixel_of_a_picture_is_one_of_the_sheet(pictures):
    figure = recovery_sheet(rows(pictures))
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=WEBP_DPI)
    sheet = torch.frombuffer(bytearray(image_module.open(file).convert("RGB").tobytes()), dtype=torch.uint8)
    width, height = (round(side * WEBP_DPI) for side in figure.get_size_inches())
    sheet = sheet.view(height, width, 3).permute(2, 0, 1)
    for x in range(3):
        left = MARGIN + x * (64 + GAP)
        shown = sheet[:, HEAD : HEAD + 48, left : left + 64].float()
        assert (shown - pictures[0, x] * 255).abs().max() <= 1


def test_titles_and_captions_are_there_and_the_file_is_small(pictures):
    figure = recovery_sheet(rows(pictures))
    texts = [text.get_text() for text in figure.texts]
    assert texts.count("40.0 dB") == 6 and texts.count("column 2") == 1 and texts.count("row 1") == 1
    data = as_webp(figure, LARGEST)
    assert image_module.open(io.BytesIO(data)).format == "WEBP" and len(data) < LARGEST


def test_what_does_not_fit_is_named(pictures):
    with pytest.raises(ValueError, match="got none"):
        recovery_sheet({})
    ragged = rows(pictures)
    ragged["row 1"] = ragged["row 1"][:2]
    with pytest.raises(ValueError, match=r"equally many each, got \[2, 3\]"):
        recovery_sheet(ragged)
    with pytest.raises(ValueError, match="pictures must have one size"):
        recovery_sheet({"row": [("a", pictures[0, 0], ""), ("b", pictures[0, 0, :, :20], "")]})
