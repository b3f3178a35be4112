"""Steps of a person on the demo's page in a browser, for tests."""

import io

import numpy as np
from PIL import Image

from support.patience import PATIENCE, get, wait_until

# Counts the paintings that have ended well.
COUNT_FINISHED = """
window.finished = 0;
Object.defineProperty(window, "ccld", { configurable: true, set(ccld) {
  const finish = ccld.finish;
  ccld.finish = (...values) => { finish(...values); window.finished += 1; };
} });
"""


def new_tab(browser, width=1280, height=900, **options):
    """An empty tab whose waits are long, but end."""
    tab = browser.new_page(viewport={"width": width, "height": height}, **options)
    tab.add_init_script(COUNT_FINISHED)
    tab.set_default_timeout(1000 * PATIENCE)
    return tab


def press(tab):
    tab.locator(".paint-button >> visible=true").click()


def next_picture(tab, paint=press) -> np.ndarray:
    """Presses the button, or does something else that paints, and returns the picture, which may be the same again."""
    before = tab.evaluate("finished")
    paint(tab)
    tab.wait_for_function("(before) => finished > before", arg=before)
    return shown(tab)


def shown(tab) -> np.ndarray:
    """Waits for the picture in the gallery, and returns it."""
    tab.wait_for_function("document.querySelector('#note')?.innerText.includes('Seed')")
    tab.wait_for_selector(".running", state="detached")
    address = tab.locator("#gallery img").first.get_attribute("src")
    return np.asarray(Image.open(io.BytesIO(get(address).content)))


def wait(tab, holds, what):
    wait_until(holds, what, lambda seconds: tab.wait_for_timeout(1000 * seconds))


def write(tab, text):
    tab.locator("#prompt textarea").fill(text)


def draw_on(tab, picture):
    """Uploads a picture to the open editor and draws a line through its middle, whose x is returned, in pixels."""
    panel = tab.get_by_role("tabpanel")
    invitation = tab.get_by_text("draw where to paint")
    invitation.wait_for()
    tab.wait_for_timeout(2000)  # the canvas accepts a picture only when it is ready, and then resizes
    panel.locator("input[type=file]").first.set_input_files(picture)
    invitation.wait_for(state="hidden")
    tab.wait_for_timeout(2000)
    box = panel.locator("canvas").first.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    tab.mouse.move(x - 20, y)
    tab.mouse.down()
    tab.mouse.move(x + 20, y, steps=10)
    tab.mouse.up()
    tab.mouse.move(box["x"] - 5, box["y"] - 5)  # away from the brush's outline
    tab.wait_for_timeout(300)
    return x
