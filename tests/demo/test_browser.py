"""The page in a real browser."""

import contextlib
import io
import re
import signal
import socket
import subprocess
import sys
import time

import httpx
import numpy as np
import pytest
from PIL import Image

from diffusers_ccld import CCLDPipeline, default_model
from diffusers_ccld.demo.painter import Painter
from diffusers_ccld.inference.provenance import save_picture
from support.browser import chromium
from support.demo_calls import inputs, png


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


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


IN_SIGHT = """(element) => {
  const { top, bottom } = element.getBoundingClientRect();
  return element.checkVisibility() && top >= 0 && bottom <= window.innerHeight;
}"""


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 390])
def test_the_first_screen_has_examples_and_no_empty_gallery(browser, bundled_server, width):
    tab = browser.new_page(viewport={"width": width, "height": 850})
    tab.goto(bundled_server)
    tab.wait_for_selector(".example img")
    assert not tab.locator("#gallery").is_visible()
    for element in (*tab.locator(".example img").all(), tab.locator("#prompt"), tab.locator(".paint-button").first):
        assert element.evaluate(IN_SIGHT)
    tab.close()


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
    tab.wait_for_selector(".running", state="detached")
    address = tab.locator("#gallery img").first.get_attribute("src")
    return np.asarray(Image.open(io.BytesIO(httpx.get(address).content)))


@pytest.mark.slow
def test_a_person_paints_and_opens_the_link(tab, browser, bundled_server):
    tab.locator("#prompt textarea").fill("a rose & a cat, oil on canvas")
    press(tab)
    picture = shown(tab)
    link = tab.locator("#note a")
    assert picture.shape == (128, 128, 3) and picture.std() > 10

    other = browser.new_page()
    other.goto(bundled_server + link.get_attribute("href"))
    assert np.array_equal(shown(other), picture)
    assert other.locator("#prompt textarea").input_value() == "a rose & a cat, oil on canvas"
    assert other.locator("#note a").get_attribute("href") == link.get_attribute("href")
    other.close()


@pytest.mark.slow
def test_a_person_uses_an_image_prompt_edits_and_inpaints(tab, bundled_server, tmp_path):
    (tmp_path / "red.png").write_bytes(png((128, 128)))
    tab.locator("#details input[type=file]").first.set_input_files(tmp_path / "red.png")
    tab.wait_for_selector("#details img")
    press(tab)
    shown(tab)
    assert tab.locator("#note a").count() == 0

    tab.get_by_role("tab", name="Edit").click()
    tab.get_by_role("tabpanel").locator("input[type=file]").first.set_input_files(tmp_path / "red.png")
    tab.wait_for_selector("#form img >> visible=true")
    tab.locator("#prompt textarea").fill("a seascape, watercolor")
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
        tab.locator("#prompt textarea").fill("a rose")
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


def write(tab, text):
    tab.locator("#prompt textarea").fill(text)


@pytest.mark.slow
def test_enter_paints_and_shift_enter_breaks_the_line(tab):
    field = tab.locator("#prompt textarea")
    write(tab, "a rose")
    field.press("Shift+Enter")
    field.press_sequentially("in bloom")
    assert field.input_value() == "a rose\nin bloom" and tab.locator(".running").count() == 0
    field.press("Enter")
    shown(tab)
    assert field.input_value() == "a rose\nin bloom"


@pytest.mark.slow
def test_an_example_and_chips_fill_the_prompt_at_once(tab):
    tab.locator(".example").nth(1).click()
    press(tab)
    shown(tab)
    assert "moon" in tab.locator("#note a").get_attribute("href")
    assert "moon" in tab.url  # the address bar holds the link
    assert tab.locator("#gallery img").first.get_attribute("alt").startswith("the moon over a lake")
    gallery, examples = (tab.locator(at).bounding_box() for at in ("#gallery", "#examples"))
    assert examples["y"] > gallery["y"] + gallery["height"] and not tab.locator("#hint").is_visible()
    for chip in ("cat", "winter", "pastel", "rose"):
        tab.locator(".chip", has_text=re.compile(f"^{chip}$")).click()
    assert tab.locator("#prompt textarea").input_value() == "a rose in winter, pastel on paper"


@pytest.mark.slow
def test_the_picture_appears_while_it_is_painted_and_cancel_keeps_the_link(tab):
    write(tab, "a rose")
    assert not tab.locator("#cancel").is_visible()
    press(tab)
    shown(tab)
    link, source = (
        tab.locator(at).first.get_attribute(of) for at, of in (("#note a", "href"), ("#gallery img", "src"))
    )
    assert not tab.locator("#cancel").is_visible()
    tab.get_by_label("number input for Steps").fill("150")
    press(tab)
    frames = set()
    while len(frames) < 3:
        frames |= {image.get_attribute("src") for image in tab.locator(".frames img").all()}
        tab.wait_for_timeout(50)
    assert "left" in tab.locator("#progress").inner_text()
    tab.locator("#cancel").click()
    tab.wait_for_selector(".running", state="detached")
    assert not tab.locator("#cancel").is_visible()
    assert tab.locator("#note a").get_attribute("href") == link
    assert tab.locator("#gallery img").first.get_attribute("src") == source


@pytest.mark.slow
def test_an_error_leaves_the_pictures(tab):
    write(tab, "a rose")
    press(tab)
    shown(tab)
    write(tab, "")
    press(tab)
    tab.get_by_text("Write a prompt, or give an image prompt.").wait_for()
    tab.wait_for_selector(".running", state="detached")
    assert tab.locator("#gallery img").first.is_visible() and tab.locator("#note a").count() == 1
    assert tab.locator("#gallery button[title*=Share i], #gallery button[aria-label*=Share i]").count() == 0


@pytest.mark.slow
def test_a_picture_is_sent_on_and_remembered(tab, bundled_server):
    write(tab, "a cottage")
    press(tab)
    shown(tab)
    for name, selected in (("Edit", "Edit"), ("Repaint", "Repaint"), ("Inpaint", "Inpaint")):
        tab.locator("#actions button", has_text=name).click()
        tab.locator(f'[role="tab"][aria-selected="true"]:has-text("{selected}")').wait_for()
        if name != "Inpaint":
            tab.wait_for_selector("[role=tabpanel] img >> visible=true")
    tab.locator("#actions button", has_text="Variations").click()
    tab.wait_for_selector("#compare img >> visible=true")
    tab.reload()
    tab.wait_for_selector("#history img")
    assert tab.locator("#history img").first.get_attribute("alt") == "a cottage"


@pytest.mark.slow
def test_the_released_slider_paints_between_two_prompts_with_the_same_seed(tab):
    tab.get_by_role("tab", name="Between").click()
    write(tab, "a forest in summer, oil on canvas")
    tab.get_by_label("Second prompt").fill("a forest in winter, oil on canvas")
    slider = tab.locator("#position input[type=range]")
    seen = []

    def release(position):
        """The address of the picture at a position, from 0 to 1."""
        box = slider.bounding_box()
        tab.mouse.click(box["x"] + box["width"] * (0.02 + 0.96 * position), box["y"] + box["height"] / 2)
        tab.wait_for_selector(".running")
        shown(tab)
        seen.append((tab.locator("#gallery img").first.get_attribute("src"), tab.locator("#note").inner_text()))
        return seen[-1][0]

    summer = release(0)
    between, winter = release(0.5), release(1)
    assert len({summer, between, winter}) == 3 and release(0) == summer
    assert len({note for _, note in seen}) == 1
    assert tab.get_by_label("Random seed").is_checked()
    assert tab.locator("#history img").count() == 0
    slider.press("ArrowRight")
    tab.wait_for_selector(".running")
    shown(tab)
    assert tab.locator("#gallery img").first.get_attribute("src") != summer


@pytest.mark.slow
def test_a_dropped_picture_fills_the_form(tab, tmp_path):
    record = {"conditions": [["a cat on a rug", 2.0]], "seed": 77, "steps": 9, "algorithm": "ddim"}
    save_picture(Image.new("RGB", (8, 8)), tmp_path / "ours.png", record)
    tab.locator("#details input[type=file][accept*=png]").last.set_input_files(tmp_path / "ours.png")
    tab.wait_for_function("document.querySelector('#prompt textarea').value === 'a cat on a rug'")
    assert tab.get_by_label("number input for Steps").input_value() == "9"
    assert tab.get_by_label("Seed", exact=True).input_value() == "77"


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
    tab = browser.new_page(viewport={"width": width, "height": 850}, color_scheme=scheme)
    tab.goto(f"{bundled_server}?__theme={scheme}")
    tab.wait_for_selector("#prompt textarea")
    tab.get_by_text("Details").click()
    for selector in ('button[role="tab"]', ".chip", ".example span", "#title p", "#details span", ".paint-button"):
        for element in tab.locator(f"{selector} >> visible=true").all()[:12]:
            assert tab.evaluate(CONTRAST, element.evaluate(COLOURS)) >= 4.5, (selector, element.inner_text())
    assert tab.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    tab.close()


@pytest.mark.slow
@pytest.mark.parametrize("painting", [False, True])
def test_an_interruption_ends_the_server(painting):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "ccld_command", "demo", "--port", str(port)]

    def accept_interrupts():  # a suite in the background of a shell ignores SIGINT, and so would its children
        signal.signal(signal.SIGINT, signal.default_int_handler)

    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(command, **pipes, text=True, preexec_fn=accept_interrupts)
    assert process.stdout.readline().startswith("http://127.0.0.1")
    address = f"http://127.0.0.1:{port}"
    while True:
        with contextlib.suppress(httpx.HTTPError):
            httpx.get(address)
            break
        time.sleep(0.2)
    if painting:
        event = httpx.post(f"{address}/gradio_api/call/paint", json={"data": inputs(steps=150)}).json()["event_id"]
        stream = httpx.stream("GET", f"{address}/gradio_api/call/paint/{event}", timeout=60)
        next(stream.__enter__().iter_lines())
    begin = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=30)
    assert time.monotonic() - begin < 2
    assert error.splitlines()[-1] == "interrupted"
