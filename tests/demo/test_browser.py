"""The page in a real browser."""

import io
import time
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from diffusers_ccld import CCLDPipeline, default_model
from diffusers_ccld.demo.painter import Painter
from support.demo_calls import png

CHROMIUM = Path("/usr/bin/chromium")

SWITCHES = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    if not CHROMIUM.is_file():
        pytest.skip(f"There is no {CHROMIUM}.")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=str(CHROMIUM), args=list(SWITCHES))
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def bundled_painter():
    return Painter(CCLDPipeline.from_pretrained(default_model()))


@pytest.fixture(scope="module")
def bundled_server(bundled_painter, tmp_path_factory):
    """Address of a demo of the bundled model."""
    pytest.importorskip("gradio")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("uploads")))
        from diffusers_ccld.demo import page as demo

        page = demo.build(bundled_painter)
        yield demo.launch(page, block=False)
        page.close(verbose=False)


@pytest.fixture
def tab(browser, bundled_server):
    """The open page. When it closes, all its requests must have gone to the server."""
    tab = browser.new_page(viewport={"width": 1280, "height": 900})
    asked = []
    tab.on("request", lambda request: asked.append(request.url))
    tab.goto(bundled_server)
    tab.set_default_timeout(60_000)
    tab.get_by_text("Details").click()
    tab.get_by_label("number input for Steps").fill("8")
    tab.get_by_label("number input for Pictures").fill("1")
    yield tab
    tab.close()
    assert asked and all(url.startswith((bundled_server, "data:", "blob:")) for url in asked)


def press(tab):
    tab.locator(".paint-button >> visible=true").click()


def next_picture(tab) -> np.ndarray:
    """Presses the button, and returns the picture that replaces the one in the gallery."""
    before = tab.locator("#gallery img").first.get_attribute("src")
    press(tab)
    tab.wait_for_function("(before) => document.querySelector('#gallery img')?.src !== before", arg=before)
    return shown(tab)


def shown(tab) -> np.ndarray:
    """Waits for the picture in the gallery, and returns it."""
    tab.wait_for_function("document.querySelector('#note')?.innerText.includes('Seed')")
    address = tab.locator("#gallery img").first.get_attribute("src")
    return np.asarray(Image.open(io.BytesIO(httpx.get(address).content)))


@pytest.mark.slow
def test_a_person_paints_and_opens_the_link(tab, browser, bundled_server):
    tab.get_by_label("Prompt", exact=True).fill("a rose & a cat, oil on canvas")
    press(tab)
    picture = shown(tab)
    link = tab.locator("#note a")
    assert picture.shape == (128, 128, 3) and picture.std() > 10

    other = browser.new_page()
    other.goto(bundled_server + link.get_attribute("href"))
    assert np.array_equal(shown(other), picture)
    assert other.get_by_label("Prompt", exact=True).input_value() == "a rose & a cat, oil on canvas"
    assert other.locator("#note a").get_attribute("href") == link.get_attribute("href")
    other.close()


@pytest.mark.slow
def test_a_person_uses_an_image_prompt_edits_and_inpaints(tab, bundled_server, tmp_path):
    (tmp_path / "red.png").write_bytes(png((128, 128)))
    tab.locator("#details input[type=file]").set_input_files(tmp_path / "red.png")
    tab.wait_for_selector("#details img")
    press(tab)
    shown(tab)
    assert tab.locator("#note a").count() == 0

    tab.get_by_role("tab", name="Edit").click()
    tab.get_by_role("tabpanel").locator("input[type=file]").first.set_input_files(tmp_path / "red.png")
    tab.wait_for_selector("#form img >> visible=true")
    tab.get_by_label("Prompt", exact=True).fill("a seascape, watercolor")
    edited = next_picture(tab)
    assert edited.shape == (128, 128, 3)

    tab.get_by_role("tab", name="Inpaint").click()
    invitation = tab.get_by_text("draw where to paint")
    invitation.wait_for()
    tab.wait_for_timeout(2000)  # the canvas accepts a picture only when it is ready, and then resizes
    tab.get_by_role("tabpanel").locator("input[type=file]").first.set_input_files(tmp_path / "red.png")
    invitation.wait_for(state="hidden")
    tab.wait_for_timeout(2000)
    box = tab.get_by_role("tabpanel").locator("canvas").first.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    tab.mouse.move(x - 20, y)
    tab.mouse.down()
    tab.mouse.move(x + 20, y, steps=10)
    tab.mouse.up()
    inpainted = next_picture(tab).astype(int)
    redness = inpainted[..., 0] - inpainted[..., 1:].max(axis=-1)
    assert redness[:8].mean() > redness[60:68, 60:68].mean() + 50


@pytest.mark.slow
def test_a_person_cancels_and_leaves(tab, browser, bundled_server, bundled_painter):
    evaluations = []
    hook = bundled_painter._components["unet"].register_forward_pre_hook(
        lambda *_: evaluations.append(time.monotonic())
    )
    try:
        tab.get_by_label("number input for Steps").fill("150")
        tab.get_by_label("number input for Pictures").fill("4")
        tab.get_by_label("Prompt", exact=True).fill("a rose")
        for leave in (lambda: tab.locator("#cancel").click(), lambda: tab.goto("about:blank")):
            begin = len(evaluations)
            press(tab)
            while len(evaluations) < begin + 5:
                tab.wait_for_timeout(20)
            leave()
            tab.wait_for_timeout(1000)
            seen = len(evaluations)
            tab.wait_for_timeout(1500)
            assert begin + 5 <= seen == len(evaluations) < begin + 150
    finally:
        hook.remove()
