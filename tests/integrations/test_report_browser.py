"""The report page in a real browser: Chromium without a head, driven by Playwright, with every request refused."""

import re
import shutil
import subprocess

import pytest
import torch

from relqa_loss import RelationalLoss, distort
from relqa_loss.evaluation.psnr import psnr
from relqa_loss.report import Report

pytest.importorskip("PIL")
sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield started
        started.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """one.html: blocks at the bottom left, darker at the top right; three.html: also an equal picture and a far one."""
    generator = torch.Generator().manual_seed(0)
    reference = torch.rand(1, 3, 12, 16, generator=generator)
    reference = torch.nn.functional.interpolate(reference, (96, 128), mode="bicubic").clamp(0.1, 0.9)
    reference = (reference + 0.05 * torch.randn(reference.shape, generator=generator)).clamp(0, 1)
    image = reference.clone()
    image[:, :, 48:, :64] = distort(reference, "pixelate", 0.9)[:, :, 48:, :64]
    image[:, :, :40, 80:] *= 0.6
    far = distort(reference, "luma_noise", 1.0)
    loss_fn = RelationalLoss()
    folder = tmp_path_factory.mktemp("pages")
    pairs = {"</script>.png": image, "equal.png": reference, "far.png": far}
    for page, names in (("one", list(pairs)[:1]), ("three", list(pairs))):
        report = Report("ref.png & others", "made by a test")
        for name in names:
            with torch.no_grad():
                relation = loss_fn.relate(pairs[name], reference)
                report.add(name, pairs[name][0], "ref.png", reference[0], relation, psnr=psnr(pairs[name], reference))
        if page == "three":
            report.skip("lost.png", "no such photograph")
        (folder / f"{page}.html").write_text(report.html(), encoding="utf-8")
    return folder


@pytest.fixture
def open_page(browser, pages):
    """A page of the given name; the test fails if it asked for anything beside itself or logged an error."""
    opened, wrong = [], []

    def open_it(name, **options):
        context = browser.new_context(**{"viewport": {"width": 1200, "height": 900}, **options})
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
        address = (pages / f"{name}.html").as_uri()
        page.on(
            "request", lambda request: None if request.url.startswith(("data:", address)) else wrong.append(request.url)
        )
        page.goto(address)
        page.wait_for_selector("body[data-ready]")
        opened.append(context)
        return page

    yield open_it
    for context in opened:
        context.close()
    assert not wrong


def clip(page):
    """Share of the picture that is hidden by the border, from its left."""
    style = page.locator("#picture").evaluate("node => node.style.clipPath")
    return float(re.search(r"([\d.]+)%\)", style).group(1)) / 100


def overlay_pixel(page, across, down):
    """RGBA of the overlay's own canvas at a place of the picture, both in [0, 1]."""
    return page.locator("#overlay").evaluate(
        "(node, [x, y]) => [...node.getContext('2d')"
        ".getImageData(Math.floor(x * node.width), Math.floor(y * node.height), 1, 1).data]",
        [across, down],
    )


def test_the_page_shows_both_pictures_and_says_what_differs(open_page):
    page = open_page("one")
    for name in ("reference", "picture"):
        assert page.locator(f"#{name}").evaluate("node => [node.naturalWidth, node.naturalHeight]") == [128, 96]
    assert page.locator("#pair-title").inner_text() == "</script>.png"
    assert float(page.locator("#distance").inner_text()) > 0 and "dB" in page.locator("#psnr").inner_text()
    assert page.locator("#index").is_hidden()
    assert page.title() == "ref.png & others"


def test_the_border_follows_the_pointer_and_the_keys(open_page):
    page = open_page("one")
    area = page.locator("#stage").bounding_box()
    assert clip(page) == pytest.approx(0.5)
    page.mouse.move(area["x"] + area["width"] / 2, area["y"] + area["height"] / 2)
    page.mouse.down()
    page.mouse.move(area["x"] + area["width"] * 0.25, area["y"] + area["height"] / 2, steps=3)
    page.mouse.up()
    assert clip(page) == pytest.approx(0.25, abs=0.01)
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert clip(page) == pytest.approx(0.26, abs=0.01)
    page.keyboard.press("End")
    assert clip(page) == 1.0


def test_an_axis_lays_its_signed_map_over_the_picture(open_page):
    page = open_page("one")
    darker = page.locator("button.axis[data-axis=brightness]")
    for pressed in page.locator("button.axis[aria-pressed=true]").all():
        pressed.click()
    assert page.locator("#overlay").is_hidden()
    darker.click()
    assert darker.get_attribute("aria-pressed") == "true" and "darker" in darker.inner_text()
    assert page.locator("#overlay").get_attribute("data-axes") == "brightness"
    red, _, blue, opacity = overlay_pixel(page, 0.82, 0.2)
    assert blue > red and opacity > 60
    assert overlay_pixel(page, 0.15, 0.15)[3] < opacity / 2
    assert (page.locator("#minus").inner_text(), page.locator("#plus").inner_text()) == ("darker", "brighter")
    area = page.locator("#stage").bounding_box()
    page.mouse.move(area["x"] + area["width"] * 0.82, area["y"] + area["height"] * 0.2)
    assert re.fullmatch(r"x 10\d, y 19 · brightness \u2212[\d.]+", page.locator("#readout").inner_text())
    page.locator("#maps").click()
    assert page.locator("#overlay").is_hidden()


def test_a_place_is_outlined_zoomed_to_and_left_again(open_page):
    page = open_page("one")
    places = page.locator("button.place")
    assert places.count() >= 2
    texts = [place.inner_text() for place in places.all()]
    darker = next(k for k, text in enumerate(texts) if text.startswith(f"{k + 1}\ndarker"))
    assert "top right" in texts[darker] and "px" in texts[darker] and "\u2212" in texts[darker]
    places.nth(darker).click()
    assert places.nth(darker).get_attribute("aria-pressed") == "true"
    sync_api.expect(page.locator("#stage")).to_have_attribute("data-zoom", re.compile(r"^(1\.[3-9]|[2-9]|\d\d)"))
    page.wait_for_timeout(400)
    stage, box = page.locator("#stage").bounding_box(), page.locator("#box").bounding_box()
    assert stage["x"] - 1 <= box["x"] and box["x"] + box["width"] <= stage["x"] + stage["width"] + 1
    assert box["width"] > 0.5 * stage["width"] or box["height"] > 0.5 * stage["height"]
    page.keyboard.press("Escape")
    assert page.locator("#box").is_hidden() and page.locator("#stage").get_attribute("data-zoom") == "1.00"


def test_everything_is_reached_with_the_keyboard_alone(open_page):
    page = open_page("one")
    reached = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id || document.activeElement.className"))
    assert {"theme", "slider", "maps", "grey", "closer", "axis"} <= reached
    assert any(name.startswith("place") for name in reached)
    page.locator("button.axis").nth(1).focus()
    page.keyboard.press("Space")
    assert page.locator("button.axis").nth(1).get_attribute("aria-pressed") == "true"


def test_the_index_sorts_opens_and_names_the_skipped(open_page):
    page = open_page("three")
    names = [cell.inner_text() for cell in page.locator("#rows tbody .open").all()]
    assert names[0] == page.locator("#pair-title").inner_text() and names[-1] == "equal.png"
    page.locator("#rows th[data-key=distance] button").click()
    assert page.locator("#rows tbody .open").first.inner_text() == "equal.png"
    assert page.locator("#rows th[data-key=distance]").get_attribute("aria-sort") == "ascending"
    page.locator("#rows tbody .open").first.click()
    sync_api.expect(page.locator("#pair-title")).to_have_text("equal.png")
    assert page.locator("#says").inner_text() == "no difference" and page.locator("#psnr").inner_text() == "∞"
    assert page.locator("#places").inner_text() == "No place stands out."
    page.locator("#next").click()
    sync_api.expect(page.locator("#pair-title")).to_have_text("far.png")
    assert "1 could not be compared" in page.locator("#skipped summary").inner_text()
    # One reference for three pictures is in the file once.
    assert page.evaluate("Object.keys(JSON.parse(document.getElementById('data').textContent).pictures).length") == 3


def test_pixels_are_shown_as_squares_only_where_they_are_large(open_page):
    world = open_page("one", viewport={"width": 240, "height": 900}).locator("#world")
    assert "sharp" not in (world.get_attribute("class") or "")
    world.page.set_viewport_size({"width": 1200, "height": 900})
    sync_api.expect(world).to_have_class("sharp")


@pytest.mark.parametrize("name", ["one", "three"])
def test_it_fits_a_phone(open_page, name):
    page = open_page(name, viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.locator("#stage").scroll_into_view_if_needed()
    stage = page.locator("#stage").bounding_box()
    assert 280 < stage["width"] <= 360
    page.touchscreen.tap(stage["x"] + stage["width"] * 0.8, stage["y"] + stage["height"] / 2)
    assert clip(page) == pytest.approx(0.8, abs=0.02)
    heights = page.locator("button:visible").evaluate_all("nodes => nodes.map(node => node.offsetHeight)")
    assert min(heights) >= 30


def test_dark_and_light_follow_the_system_and_the_button(open_page):
    def ground(page):
        text = page.evaluate("getComputedStyle(document.body).backgroundColor")
        return sum(int(part) for part in re.findall(r"\d+", text)[:3])

    light, dark = open_page("one", color_scheme="light"), open_page("one", color_scheme="dark")
    assert ground(light) > 600 and ground(dark) < 150
    light.locator("#theme").click()
    assert ground(light) < 150 and light.locator("#theme").inner_text() == "Light"


def test_the_browser_is_the_real_one():
    assert re.match(r"(Chromium|Google Chrome) \d+", subprocess.check_output([CHROMIUM, "--version"], text=True))
