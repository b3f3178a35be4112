"""The looks of the page in a real browser, and its texts for screen readers."""

import io

import numpy as np
import pytest
from PIL import Image

from support.demo_page import draw_on, new_tab, press, shown, wait, write

IN_SIGHT = """(element) => {
  const { top, bottom } = element.getBoundingClientRect();
  return element.checkVisibility() && top >= 0 && bottom <= window.innerHeight;
}"""


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 390])
def test_the_first_screen_has_examples_and_no_empty_gallery(browser, bundled_server, width):
    tab = new_tab(browser, width, 850)
    tab.goto(bundled_server)
    tab.wait_for_selector(".example img")
    assert not tab.locator("#gallery").is_visible()
    for element in (*tab.locator(".example").all(), tab.locator("#prompt"), tab.locator(".paint-button").first):
        assert element.evaluate(IN_SIGHT)
    tab.close()


@pytest.mark.slow
def test_every_picture_has_an_alt_text_large_or_small(tab):
    tab.get_by_label("number input for Pictures").fill("3")
    tab.get_by_label("Random seed").uncheck()
    tab.get_by_label("Seed", exact=True).fill("5")
    write(tab, "a cat, pastel")
    press(tab)
    shown(tab)
    tab.wait_for_function(ALT_TEXTS, arg=3)
    tab.locator("#gallery .thumbnail-item").nth(1).click()
    tab.wait_for_selector("#gallery .thumbnails .thumbnail-item")
    tab.wait_for_function(ALT_TEXTS, arg=4)  # the large one and those below it
    tab.locator("#actions button", has_text="Edit").click()
    tab.wait_for_selector("[role=tabpanel] img >> visible=true")
    press(tab)
    tab.wait_for_selector("#compare img >> visible=true")
    tab.wait_for_function(
        "() => [...document.querySelectorAll('#compare img')].map((image) => image.alt).join() === 'before,after'"
    )
    unnamed = "(images) => images.filter((image) => !image.alt && !image.closest('button.example')).length"
    assert tab.locator("img >> visible=true").evaluate_all(unnamed) == 0


# At least so many pictures are there, and each has its prompt and the seed of its file.
ALT_TEXTS = """(count) => {
  const images = [...document.querySelectorAll("#gallery img")];
  const seed = ({ src }) => /-(\\d+)\\.png$/.exec(src)[1];
  return images.length >= count && images.every((image) => image.alt === `a cat, pastel, seed ${seed(image)}`);
}"""


@pytest.mark.slow
def test_no_spinner_covers_the_page_while_it_loads(browser, bundled_server):
    """The answer of the event that opens links is held back meanwhile."""
    tab = new_tab(browser)
    held = []
    tab.route("**/gradio_api/run/predict*", lambda route: held.append(route))
    tab.goto(f"{bundled_server}?prompt=a")  # an event that lasts
    tab.wait_for_selector("#prompt textarea")
    wait(tab, lambda: held, "The page asks for the settings of its link.")
    tab.wait_for_timeout(500)
    spinners = tab.locator('[data-testid="status-tracker"] >> visible=true')
    assert spinners.evaluate_all(COVERING) == 0
    tab.screenshot()
    tab.locator("#prompt textarea").fill("a rose")
    for route in held:
        route.continue_()
    tab.close()


# The number of status trackers that show something: a spinner, a time or a cover.
COVERING = """(trackers) => trackers.filter((tracker) => {
  const style = getComputedStyle(tracker);
  return style.opacity !== "0" && style.visibility !== "hidden" && tracker.childElementCount > 0;
}).length"""


@pytest.mark.slow
@pytest.mark.parametrize("side", [128, 1024])
def test_the_brush_is_translucent_and_sized_to_the_picture(tab, tmp_path, side):
    Image.new("RGB", (side, side), "blue").save(tmp_path / "blue.png")
    tab.get_by_role("tab", name="Inpaint").click()
    x = draw_on(tab, tmp_path / "blue.png")
    box = tab.get_by_role("tabpanel").locator("canvas").first.bounding_box()
    pixels = np.asarray(Image.open(io.BytesIO(tab.screenshot(clip=box))).convert("RGB")).astype(int)
    column = pixels[:, round(x - box["x"])]
    is_picture = (column[:, 2] > 60) & (column[:, 2] > column[:, 1])
    is_drawn = is_picture & (column[:, 0] > 60)
    assert is_drawn.any()
    # Amber over blue, 0.6 of it: neither of the two.
    assert np.abs(np.median(column[is_drawn], axis=0) - [147, 95, 109]).max() < 25
    assert 0.04 < is_drawn.sum() / is_picture.sum() < 0.16, (is_drawn.sum(), is_picture.sum())


CONTRAST = """([front, back]) => {
  const light = (colour) => {
    const [r, g, b] = colour.match(/[\\d.]+/g).map((x) => x / 255)
      .map((x) => x <= 0.03928 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const [a, b] = [light(front), light(back)].sort().reverse();
  return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
}"""
COLOURS = """(element) => {
  let ground = element;
  const isClear = (at) => /rgba\\(0, 0, 0, 0\\)|transparent/.test(getComputedStyle(at).backgroundColor);
  while (ground && isClear(ground)) ground = ground.parentElement;
  return [getComputedStyle(element).color, ground ? getComputedStyle(ground).backgroundColor : "rgb(255, 255, 255)"];
}"""


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_texts_can_be_read_and_nothing_is_cut_off(browser, bundled_server, scheme, width):
    tab = new_tab(browser, width, 850, color_scheme=scheme)
    tab.goto(f"{bundled_server}?__theme={scheme}")
    tab.wait_for_selector("#prompt textarea")
    tab.get_by_text("Details").click()
    for selector in ('button[role="tab"]', ".chip", ".example span", "#title p", "#details span", ".paint-button"):
        for element in tab.locator(f"{selector} >> visible=true").all()[:12]:
            assert tab.evaluate(CONTRAST, element.evaluate(COLOURS)) >= 4.5, (selector, element.inner_text())
    assert tab.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    tab.close()
