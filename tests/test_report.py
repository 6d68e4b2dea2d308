import base64
import io
import json
import math
import re

import numpy as np
import pytest
import torch

from relqa_loss.relation import AXES, Relation
from relqa_loss.report import Report
from relqa_loss.report.encode import map_uri, picture_uri, shrunk

Image = pytest.importorskip("PIL.Image")


def relation_of(value, shape=(32, 48), axis="brightness"):
    maps = torch.zeros(1, len(AXES), *shape)
    maps[0, AXES.index(axis), :16, :24] = value
    parts = maps.abs().mean(dim=(2, 3))
    floor = torch.full((1,), 0.001 if value else 0.0)
    return Relation(parts.sum(1) + floor, parts, floor, lambda: maps, lambda: torch.zeros(1))


def page_of(values, **options):
    report = Report("a title", "made by a test", **options)
    reference = torch.full((3, 32, 48), 0.5)
    for k, value in enumerate(values):
        image = reference + 0.01 * k
        report.add(f"{k}.png", image, "ref.png", reference, relation_of(value), psnr=40.0 if value else math.inf)
    return report.html()


def data_of(page):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S).group(1))


def pixels_of(uri):
    head, _, body = uri.partition(",")
    assert head == "data:image/webp;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(body))))


def test_pictures_are_in_the_page_bit_for_bit():
    image = torch.rand(3, 20, 33, generator=torch.Generator().manual_seed(0))
    wanted = (image * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    assert np.array_equal(pixels_of(picture_uri(image)), wanted)


def test_a_title_that_is_no_text_is_escaped():
    report = Report("b\udcff.png", "made by a test")
    image = torch.full((3, 32, 48), 0.5)
    report.add("b\udcff.png", image, "ref.png", image, relation_of(0.0), psnr=math.inf)
    assert "<title>b\\udcff.png" in report.html().encode().decode()


def test_maps_keep_sign_and_size_in_grey_levels():
    signed = torch.tensor([[-2.0, -1.0, 0.0, 0.5, 1.0]]).expand(16, 5)
    assert pixels_of(map_uri(signed, 1.0))[0, :, 0].tolist() == [1, 1, 128, 192, 255]


def test_large_pictures_are_averaged_down_and_small_ones_left_alone():
    image = torch.rand(3, 40, 80)
    assert shrunk(image, 80) is image
    small = shrunk(image, 20)
    assert small.shape == (3, 10, 20) and torch.allclose(small.mean(), image.mean(), atol=1e-6)


def test_the_page_asks_for_nothing_outside_itself():
    page = page_of([0.4, 0.0])
    assert "default-src 'none'" in page
    for found in re.findall(r'(?:src|href)\s*=\s*"([^"]*)"', page):
        assert found.startswith("data:")
    assert "http" not in re.sub(r"http-equiv", "", page)


def test_numbers_words_and_places_are_those_of_the_relation():
    one, same = data_of(page_of([-0.4, 0.0]))["pairs"]
    assert one["distance"] == pytest.approx(0.4 / 4 + 0.001) and one["psnr"] == 40.0 and one["says"] == "darker"
    (axis,) = one["axes"]
    assert (axis["name"], axis["direction"], axis["words"]) == ("brightness", -1, "darker")
    assert axis["part"] == pytest.approx(0.1) and axis["map"].startswith("data:image/webp")
    (place,) = one["places"]
    assert (place["left"], place["top"], place["width"], place["height"]) == (0, 0, 24, 16)
    assert place["value"] == pytest.approx(-0.4)
    assert same["psnr"] is None and same["says"] == "no difference" and same["axes"] == same["places"] == []


def test_only_the_worst_keep_their_pictures_and_all_are_in_the_index():
    data = data_of(page_of([0.1, 0.5, 0.3, 0.2, 0.4], pictures=2))
    assert [pair["name"] for pair in data["pairs"] if pair["picture"]] == ["1.png", "4.png"]
    assert len(data["pairs"]) == 5 and len(data["pictures"]) == 3
    (group,) = data["groups"]
    assert group["count"] == 5 and group["largest"] == pytest.approx(0.126) and group["median"] == pytest.approx(0.076)


def test_names_cannot_break_out_of_the_page():
    report = Report("<b>&", "made")
    reference = torch.full((3, 32, 48), 0.5)
    report.add("</script><script>x", reference, "<ref>", reference, relation_of(0.2), psnr=30.0)
    page = report.html()
    assert "<title>&lt;b&gt;&amp;</title>" in page and "</script><script>x" not in page
    assert data_of(page)["pairs"][0]["name"] == "</script><script>x"


def test_wrong_settings_are_one_clear_error():
    for options, message in (
        ({"pictures": 0}, "pictures must be at least 1"),
        ({"side": 8}, "side must be at least 16"),
    ):
        with pytest.raises(ValueError, match=message):
            Report("t", "m", **options)
    with pytest.raises(ValueError, match="at least one pair"):
        Report("t", "m").html()
