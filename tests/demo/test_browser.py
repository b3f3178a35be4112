"""The page in a real browser."""

import contextlib
import re
import signal
import socket
import subprocess
import sys
import tempfile

import httpx
import numpy as np
import pytest

from support.demo_calls import inputs, png
from support.demo_page import draw_on, new_tab, next_picture, press, shown, wait, write
from support.patience import get, post, seconds_in_which_this_process_ran, stream, wait_until


@pytest.mark.slow
def test_a_person_paints_and_opens_the_link(tab, browser, bundled_server):
    tab.locator("#prompt textarea").fill("a rose & a cat, oil on canvas")
    press(tab)
    picture = shown(tab)
    link = tab.locator("#note a")
    assert picture.shape == (128, 128, 3) and picture.std() > 10

    other = new_tab(browser)
    other.goto(bundled_server + link.get_attribute("href"))
    assert np.array_equal(shown(other), picture)
    assert other.locator("#prompt textarea").input_value() == "a rose & a cat, oil on canvas"
    assert other.locator("#note a").get_attribute("href") == link.get_attribute("href")
    assert not tab.get_by_text("The seed is kept").is_visible()
    other.get_by_text("The seed is kept").wait_for()
    other.get_by_role("button", name="Random seed").click()
    other.get_by_text("The seed is kept").wait_for(state="hidden")
    other.close()


@pytest.mark.slow
def test_a_person_copies_the_link_with_and_without_a_clipboard(browser, bundled_server):
    tab = new_tab(browser, permissions=["clipboard-read", "clipboard-write"])
    tab.goto(bundled_server)
    tab.wait_for_selector(".example img")
    next_picture(tab)  # the prompt is empty: the example in its field is painted
    prompt = tab.locator("#prompt textarea")
    assert prompt.get_attribute("placeholder") == f"For example: {prompt.input_value()}"
    assert tab.get_by_text("The link names this computer as localhost").is_visible()
    for spoil in ("0", "Object.defineProperty(navigator, 'clipboard', { get: () => undefined })"):
        read = tab.evaluate_handle("() => { const { clipboard } = navigator; return () => clipboard.readText(); }")
        tab.evaluate("navigator.clipboard.writeText('')")
        tab.evaluate(spoil)
        tab.get_by_role("button", name="Copy link").click()
        tab.get_by_role("button", name="Copied").wait_for()
        copied = read.evaluate("(read) => read()")
        assert copied == bundled_server.rstrip("/") + "/" + tab.locator("#note a").get_attribute("href")
        tab.get_by_role("button", name="Copy link").wait_for()
    tab.evaluate("() => { document.execCommand = () => false; }")
    tab.get_by_role("button", name="Copy link").click()
    tab.get_by_role("button", name="Open the link and copy its address").wait_for()
    tab.close()


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
    assert not tab.locator("#compare").is_visible()
    tab.evaluate("history.replaceState(null, '', '?prompt=another')")
    edited = next_picture(tab)
    assert edited.shape == (128, 128, 3)
    tab.wait_for_selector("#compare img >> visible=true")
    assert tab.locator("#compare img").count() == 2
    assert "?" not in tab.url  # the link of an earlier picture

    tab.get_by_role("tab", name="Inpaint").click()
    draw_on(tab, tmp_path / "red.png")
    inpainted = next_picture(tab).astype(int)
    redness = inpainted[..., 0] - inpainted[..., 1:].max(axis=-1)
    assert redness[:8].mean() > redness[60:68, 60:68].mean() + 50


@pytest.mark.slow
def test_a_person_cancels_and_leaves(tab, browser, bundled_server, bundled_painter):
    evaluations = []
    hook = bundled_painter._components["unet"].register_forward_pre_hook(lambda *_: evaluations.append(0))
    try:
        tab.get_by_label("number input for Steps").fill("150")
        tab.get_by_label("number input for Pictures").fill("4")
        tab.locator("#prompt textarea").fill("a rose")
        for leave in (lambda: tab.locator("#cancel").click(), lambda: tab.goto("about:blank")):
            begin = len(evaluations)
            press(tab)
            wait(tab, lambda begin=begin: len(evaluations) >= begin + 5, "The painting begins.")
            leave()
            wait(tab, lambda: not bundled_painter._lock.locked(), "The painting ends.")
            assert len(evaluations) < begin + 150
    finally:
        hook.remove()


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
def test_a_click_on_an_example_paints_it_in_place_of_what_is_being_painted(tab):
    assert "Click an example to paint it" in tab.locator("#hint").inner_text()
    tab.get_by_role("tab", name="Edit").click()
    next_picture(tab, lambda tab: tab.locator(".example").nth(2).click())
    assert tab.get_by_role("tab", name="Paint", exact=True).get_attribute("aria-selected") == "true"
    assert "moon" in tab.locator("#note a").get_attribute("href")
    assert "moon" in tab.url  # the address bar holds the link
    assert tab.locator("#gallery img").first.get_attribute("alt").startswith("the moon at night")
    gallery, examples = (tab.locator(at).bounding_box() for at in ("#gallery", "#examples"))
    assert examples["y"] > gallery["y"] + gallery["height"] and not tab.locator("#hint").is_visible()
    assert pressed(tab) == ["moon", "night", "oil"]
    tab.get_by_label("number input for Steps").fill("150")
    tab.get_by_label("number input for Pictures").fill("4")
    press(tab)
    tab.wait_for_selector(".frames img")
    tab.get_by_label("number input for Steps").fill("8")
    tab.get_by_label("number input for Pictures").fill("1")
    tab.locator(".example").nth(4).focus()
    assert prompt_of(tab) == "the moon at night, oil on canvas"  # the focus alone does nothing
    before = tab.evaluate("finished")
    tab.locator(".example").nth(4).click()
    tab.wait_for_function("location.search.includes('cat+in+autumn')")
    assert tab.evaluate("finished") == before + 1 and "num_inference_steps=8&" in tab.url
    assert tab.locator("#wall").evaluate("(wall) => wall.getBoundingClientRect().top >= 0")
    before = tab.evaluate("finished")
    tab.locator(".example").first.evaluate(TWICE_AND_PAINT)
    tab.wait_for_function("(before) => finished > before", arg=before)
    assert "sailing" in tab.url
    tab.wait_for_timeout(1000)
    assert tab.evaluate("finished") == before + 1 and tab.locator(".running").count() == 0


# Clicks an example twice and the button at once.
TWICE_AND_PAINT = """(example) => {
  for (const element of [example, example, document.querySelector(".paint-button")]) element.click();
}"""


def prompt_of(tab):
    return tab.locator("#prompt textarea").input_value()


def pressed(tab):
    return tab.locator('.chip[aria-pressed="true"]').all_inner_texts()


@pytest.mark.slow
def test_the_chips_follow_the_prompt_and_spare_the_words_of_a_person(tab, bundled_server):
    def click(*names):
        for name in names:
            tab.locator(".chip", has_text=re.compile(f"^{name}$")).click()

    def says(prompt, *chips):
        wait(tab, lambda: (prompt_of(tab), pressed(tab)) == (prompt, [*chips]), f"The prompt is {prompt!r}.")

    click("cat", "winter", "pastel", "rose")
    says("a rose in winter, pastel on paper", "rose", "winter", "pastel")
    write(tab, "my grandmother's garden")
    tab.wait_for_function("!document.querySelector('.chip[aria-pressed=true]')")
    click("winter")
    says("my grandmother's garden, in winter", "winter")
    click("winter")
    says("my grandmother's garden")
    tab.goto(f"{bundled_server}?prompt=a+cat+at+night%2C+ink&num_images=1&num_inference_steps=2")
    shown(tab)
    says("a cat at night, ink", "cat", "night", "ink")
    click("sunset")
    next_picture(tab)
    wait(tab, lambda: "a+cat+at+sunset%2C+ink" in tab.url, "The address has the new prompt.")


@pytest.mark.slow
def test_a_link_by_hand_fills_the_form_and_a_wrong_part_is_named(tab, bundled_server):
    tab.goto(f"{bundled_server}?prompt=a+cat&num_images=1&algorithm=plms")
    tab.wait_for_function("finished > 0")
    assert prompt_of(tab) == "a cat" and "prompt=a+cat&" in tab.url and "num_inference_steps=30&" in tab.url
    assert "algorithm=plms" in tab.url and not tab.get_by_text("The seed is kept").is_visible()
    tab.goto(tab.url.replace("seed=", "seed=abc"))
    fault = "The seed must be a whole number from 0 to 4294967295."
    tab.get_by_text(f"The link cannot be used as it is. {fault} The form has its other settings.").wait_for()
    wait(tab, lambda: prompt_of(tab) == "a cat", "The form has the prompt.")
    tab.wait_for_timeout(1000)
    assert tab.evaluate("finished") == 0 and tab.locator(".running").count() == 0


# Keeps what the page shows while it paints, which a test on a busy machine would see too late.
RECORD_PROGRESS = """() => {
  [window.seenFrames, window.seenTexts] = [new Set(), []];
  new MutationObserver(() => {
    document.querySelectorAll(".frames img").forEach((image) => seenFrames.add(image.src));
    seenTexts.push(document.querySelector("#progress").innerText);
  }).observe(document.querySelector("#progress"), {
    childList: true, subtree: true, attributes: true, characterData: true,
  });
}"""


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
    tab.evaluate(RECORD_PROGRESS)
    press(tab)
    tab.wait_for_function("seenFrames.size >= 3 && seenTexts.some((text) => text.includes('left'))")
    tab.locator("#cancel").click()
    tab.wait_for_selector("#cancel", state="hidden")
    tab.wait_for_timeout(500)  # a late step must not bring it back
    assert tab.locator(".running").count() == 0
    assert tab.locator("#note a").get_attribute("href") == link
    assert tab.locator("#gallery img").first.get_attribute("src") == source


@pytest.mark.slow
def test_an_error_leaves_the_pictures(tab):
    write(tab, "a rose")
    press(tab)
    shown(tab)
    write(tab, "")
    tab.get_by_role("tab", name="Edit").click()
    press(tab)
    tab.get_by_text("Write a prompt, or give an image prompt.").wait_for()
    tab.wait_for_selector(".running", state="detached")
    tab.wait_for_selector("#prompt[data-missing]")
    assert tab.evaluate("document.activeElement.closest('#prompt') !== null")
    assert tab.locator("#gallery img").first.is_visible() and tab.locator("#note a").count() == 1
    assert tab.locator("#gallery button[title*=Share i], #gallery button[aria-label*=Share i]").count() == 0


@pytest.mark.slow
def test_a_picture_becomes_an_image_prompt_and_its_seed_is_kept(tab):
    write(tab, "a cottage")
    press(tab)
    shown(tab)
    seed = re.search(r"Seed (\d+)", tab.locator("#note").inner_text()).group(1)
    tab.locator("#actions button", has_text="Image prompt").click()
    tab.wait_for_selector("#details img >> visible=true")
    tab.locator("#actions button", has_text="Keep the seed").click()
    wait(tab, lambda: not tab.get_by_label("Random seed").is_checked(), "The seed is kept.")
    assert tab.get_by_label("Seed", exact=True).input_value() == seed
    press(tab)
    wait(tab, lambda: tab.locator("#note a").count() == 0, "The picture with an image prompt has no link.")
    assert f"Seed {seed}" in tab.locator("#note").inner_text()


@pytest.mark.slow
def test_a_picture_between_two_prompts_comes_back_from_its_file_and_its_link(tab, browser, tmp_path):
    tab.get_by_role("tab", name="Between").click()
    write(tab, "a forest in summer")
    tab.get_by_label("Second prompt").fill("a forest in winter")
    position = tab.get_by_label("number input for Position")
    position.fill("0.35")
    picture = next_picture(tab, lambda _: position.blur())
    other = new_tab(browser)
    other.goto(tab.url)
    other.wait_for_function("finished > 0")
    assert np.array_equal(shown(other), picture) and other.url == tab.url
    assert other.get_by_label("number input for Position").input_value() == "0.35"
    other.get_by_label("number input for Frames").fill("3")
    animation = next_picture(other, lambda other: other.get_by_role("button", name="Animate").click())
    assert "task=animate" in other.url
    other.reload()
    other.wait_for_function("finished > 0")
    assert np.array_equal(shown(other), animation)
    assert other.get_by_label("number input for Frames").input_value() == "3"
    other.close()
    address = tab.locator("#gallery img").first.get_attribute("src")
    (tmp_path / "between.png").write_bytes(get(address).content)
    write(tab, "a cat")
    tab.get_by_label("Second prompt").fill("a rose")
    tab.get_by_role("tab", name="Paint", exact=True).click()
    tab.locator("#details input[type=file][accept*=png]").last.set_input_files(tmp_path / "between.png")
    tab.wait_for_function("document.querySelector('#prompt textarea').value === 'a forest in summer'")
    tab.get_by_label("Second prompt").wait_for()
    assert tab.get_by_label("Second prompt").input_value() == "a forest in winter"
    assert np.array_equal(next_picture(tab), picture)


@pytest.mark.slow
def test_a_picture_is_sent_on_and_remembered(tab, bundled_server):
    write(tab, "a cottage")
    press(tab)
    shown(tab)
    for name in ("Edit", "Image to image", "Inpaint"):
        tab.locator("#actions button", has_text=name).click()
        tab.locator(f'[role="tab"][aria-selected="true"]:has-text("{name}")').wait_for()
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
        place = box["x"] + box["width"] * (0.02 + 0.96 * position), box["y"] + box["height"] / 2
        next_picture(tab, lambda tab: tab.mouse.click(*place))
        seen.append((tab.locator("#gallery img").first.get_attribute("src"), tab.locator("#note").inner_text()))
        return seen[-1][0]

    summer = release(0)
    between, winter = release(0.5), release(1)
    assert len({summer, between, winter}) == 3 and release(0) == summer
    assert len({note for _, note in seen}) == 1
    assert tab.get_by_label("Random seed").is_checked()
    assert tab.locator("#history img").count() == 0
    next_picture(tab, lambda _: slider.press("ArrowRight"))
    assert tab.locator("#gallery img").first.get_attribute("src") != summer
    number, before = tab.get_by_label("number input for Position"), tab.evaluate("finished")
    number.click()
    number.press("Control+A")
    number.press_sequentially("0.25")
    tab.wait_for_timeout(1000)
    assert tab.evaluate("finished") == before and tab.locator(".running").count() == 0
    quarter = next_picture(tab, lambda _: number.press("Enter"))
    number.blur()
    tab.wait_for_timeout(1000)
    assert tab.evaluate("finished") == before + 1
    number.fill("0.75")
    assert not np.array_equal(next_picture(tab, lambda _: number.blur()), quarter)


@pytest.mark.slow
@pytest.mark.parametrize("painting", [False, True])
def test_an_interruption_ends_the_server(painting):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "ccld_command", "demo", "--port", str(port)]

    def accept_interrupts():  # a suite in the background of a shell ignores SIGINT, and so would its children
        signal.signal(signal.SIGINT, signal.default_int_handler)

    with tempfile.TemporaryFile("w+") as said, tempfile.TemporaryFile("w+") as complained:
        process = subprocess.Popen(command, stdout=said, stderr=complained, preexec_fn=accept_interrupts)
        try:
            address = f"http://127.0.0.1:{port}"
            wait_until(lambda: process.poll() is not None or is_served(address), "The server answers.")
            assert process.poll() is None, text_of(complained)
            assert text_of(said).startswith(address)
            with contextlib.ExitStack() as connection:
                if painting:
                    data = {"data": inputs(steps=150)}
                    event = post(f"{address}/gradio_api/call/paint", json=data).json()["event_id"]
                    answer = connection.enter_context(stream("GET", f"{address}/gradio_api/call/paint/{event}"))
                    next(answer.iter_lines())
                process.send_signal(signal.SIGINT)
                ended = seconds_in_which_this_process_ran(lambda: process.poll() is not None, "The server ends.")
            assert ended < 2
            assert text_of(complained).splitlines()[-1] == "interrupted"
        finally:
            process.kill()
            process.wait()


def is_served(address):
    with contextlib.suppress(httpx.HTTPError):
        return bool(get(address))


def text_of(file):
    file.seek(0)
    return file.read()
