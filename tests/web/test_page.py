"""The static page in a real browser, by WebAssembly, on this machine."""

import functools
import http.server
import importlib.util
import io
import json
import shutil
import threading
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffusers_ccld import CCLDPipeline, default_model
from diffusers_ccld.demo.painter import Painter
from diffusers_ccld.demo.requests import Limits, request_of_record
from diffusers_ccld.inference.provenance import read_provenance, save_picture
from diffusers_ccld.onnx.pipeline import OnnxPipeline
from support.browser import chromium
from support.scripts import ROOT

PROMPTS = (
    "the moon over a landscape, oil on canvas",
    "a winter forest, watercolor",
    "a portrait, pastel",
    "a rose, pointillism",
    "Théo's café — a boat at night & fog",
)
PATIENCE = 300_000  # milliseconds; other work may stop this machine for minutes
FINISHED = "#gallery figure[data-state=finished]"

pytestmark = pytest.mark.slow


def load_build():
    spec = importlib.util.spec_from_file_location("build_web", ROOT / "web" / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The built folder."""
    build = load_build()
    if shutil.which("npm") is None and not (ROOT / "outputs" / "onnxruntime-web.tgz").is_file():
        pytest.skip("npm is needed to download onnxruntime-web.")
    folder = tmp_path_factory.mktemp("web") / "site"
    build.build(Path(default_model()), build.fetch_runtime(ROOT / "outputs" / "onnxruntime-web.tgz"), folder)
    return folder


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


@pytest.fixture
def served(site, tmp_path):
    """A copy of the folder on a server of its own: its path, its address, and the server."""
    folder = tmp_path / "site"
    shutil.copytree(site, folder)
    server = load_build().make_server(folder)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield folder, f"http://127.0.0.1:{server.server_port}/", server
    server.shutdown()
    server.server_close()


@pytest.fixture
def open_page(browser, served):
    """A function that opens the page. All requests must have gone to its own server."""
    asked, contexts = [], []

    def open_page(fragment="", ready=True, **options):
        context = browser.new_context(viewport={"width": 1280, "height": 900}, **options)
        contexts.append(context)
        context.set_default_timeout(PATIENCE)
        context.on("request", lambda request: asked.append(request.url))
        page = context.new_page()
        page.goto(served[1] + fragment)
        if ready:
            page.wait_for_selector("body[data-state=ready]")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert asked and all(url.startswith((served[1], "data:", f"blob:{served[1]}")) for url in asked)


def open_details(page):
    page.get_by_text("Details").click()


def pixels_of(page, selector):
    """The pixels of a canvas of the page, (H, W, 3)."""
    size = page.eval_on_selector(selector, "canvas => [canvas.height, canvas.width]")
    rgba = page.eval_on_selector(
        selector,
        "canvas => Array.from(canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data)",
    )
    return np.array(rgba, dtype=int).reshape(*size, 4)[..., :3]


def paint(page, prompt, seed=0, pictures=1):
    """Paints, and returns the pixels of the first of the new pictures, and the seconds that all took."""
    before = page.locator(FINISHED).count()
    page.fill("#prompt", prompt)
    page.fill("#seed", str(seed))
    page.fill("#pictures", str(pictures))
    start = time.perf_counter()
    page.click("#go")
    page.wait_for_function(f"document.querySelectorAll('{FINISHED}').length === {before + pictures}")
    seconds = time.perf_counter() - start
    return pixels_of(page, f"{FINISHED} canvas >> nth=0"), seconds


def test_pictures_are_those_of_the_shell(open_page):
    start = time.perf_counter()
    page = open_page()
    open_details(page)
    loaded = time.perf_counter() - start
    assert "WebAssembly" in page.inner_text("#about")
    shell = OnnxPipeline(default_model())
    guidance, times = shell.guidance_or_default(None), []
    for seed, prompt in enumerate(PROMPTS):
        found, seconds = paint(page, prompt, seed)
        (expected,) = shell.sample([seed], [(prompt, guidance)])
        assert np.abs(found - np.asarray(expected)).max() <= 2
        times.append(seconds)
    print(f"loaded in {loaded:.1f} s, pictures in {', '.join(f'{seconds:.1f}' for seconds in times)} s")


def test_several_pictures_take_the_next_seeds_and_can_be_stopped(open_page):
    page = open_page()
    open_details(page)
    paint(page, PROMPTS[0], seed=5, pictures=2)
    assert [text.split("seed ")[1].split()[0] for text in page.locator("figcaption p").all_inner_texts()] == ["5", "6"]
    page.fill("#pictures", "1")
    page.click("#go")
    page.wait_for_function(f"document.querySelectorAll('{FINISHED}').length === 3")
    page.click("#go")  # nothing has changed: the next seed
    page.wait_for_function(f"document.querySelectorAll('{FINISHED}').length === 4")
    assert page.locator("figcaption p").first.inner_text().endswith("seed 6") and page.input_value("#seed") == "6"
    page.fill("#seed", str(2**53))
    open_details(page)  # closes them
    page.click("#go")
    assert page.is_visible("#seed") and page.locator(FINISHED).count() == 4
    page.fill("#seed", "0")
    page.fill("#pictures", "16")
    page.click("#go")
    page.click("#stop")
    page.wait_for_selector("#go:visible")
    assert page.locator(FINISHED).count() < 20
    assert page.locator("figure:not([data-state=finished])").count() == 0


def test_a_preview_appears_while_painting(open_page):
    page = open_page()
    open_details(page)
    page.fill("#pictures", "1")
    page.fill("#steps", "60")
    page.click("#go")
    unfinished = "#gallery figure:not([data-state=finished])"
    page.wait_for_selector(f"{unfinished} .bar")
    page.wait_for_function(
        f"""() => {{
            const canvas = document.querySelector('{unfinished} canvas');
            return canvas && canvas.getContext('2d').getImageData(64, 64, 1, 1).data[3] === 255;
        }}"""
    )
    page.click("#stop")


def test_a_picture_can_be_a_prompt(open_page, tmp_path):
    page = open_page()
    open_details(page)
    image = Image.effect_noise((150, 100), 90).convert("RGB")
    image.save(tmp_path / "image.png")
    page.set_input_files("#image", tmp_path / "image.png")
    page.wait_for_selector("#dropped:visible")
    found, _ = paint(page, "a rose", seed=2)
    shell = OnnxPipeline(default_model())
    half = shell.guidance_or_default(None) / 2
    (expected,) = shell.sample([2], [("a rose", half), (image, half)])
    assert np.abs(found - np.asarray(expected)).max() <= 2
    page.click("#remove-image")
    (tmp_path / "broken.png").write_bytes(b"nothing")
    page.set_input_files("#image", tmp_path / "broken.png")
    page.wait_for_selector("#message:visible")
    assert "broken.png is not a picture" in page.inner_text("#message")


def test_a_download_has_its_settings_and_brings_them_back(open_page, tmp_path):
    page = open_page()
    open_details(page)
    found, _ = paint(page, PROMPTS[1], seed=9)
    with page.expect_download() as download:
        page.click(f"{FINISHED} >> nth=0 >> text=Download")
    assert download.value.suggested_filename == "a-winter-forest-watercolor-9.png"
    path = tmp_path / "picture.png"
    download.value.save_as(path)
    assert np.abs(np.asarray(Image.open(path).convert("RGB")) - found).max() == 0
    record = read_provenance(path)
    assert record["conditions"][0][0] == PROMPTS[1] and record["seed"] == 9 and record["size"] == [128, 128]
    page.fill("#prompt", "something else")
    page.fill("#seed", "1")
    page.set_input_files("#image", path)
    page.wait_for_function(f"document.getElementById('prompt').value === {json.dumps(PROMPTS[1])}")
    assert page.input_value("#seed") == "9"

    def drop(name, **changes):
        save_picture(Image.new("RGB", (8, 8)), tmp_path / name, record | changes)
        page.set_input_files("#image", tmp_path / name)
        page.wait_for_selector("#message:visible")
        return page.inner_text("#message")

    unusable = (
        "The given picture's settings cannot be used. The picture was edited from another one, which this page does"
    )
    assert drop("edit.png", task="edit", seed=1) == f"{unusable} not do."
    assert "steps is 5.5, not" in drop("damaged.png", steps=5.5) and page.input_value("#seed") == "9"
    conditions = [["a rose", 1.375], ["IMAGE", 0.5]]
    assert drop("image.png", conditions=conditions, images=["IMAGE"], seed=12).startswith("The picture had an image")
    assert (page.input_value("#prompt"), page.input_value("#seed")) == ("a rose", "12")
    assert page.input_value("#guidance") == "1.875"  # between two steps of the slider


def test_a_link_paints_the_same_picture(open_page):
    page = open_page(permissions=["clipboard-read", "clipboard-write"])
    open_details(page)
    found, _ = paint(page, PROMPTS[4], seed=4)
    page.click(f"{FINISHED} >> nth=0 >> text=Copy link")
    page.wait_for_selector("text=Copied")
    link = page.evaluate("navigator.clipboard.readText()")
    again = open_page(link.partition("/#")[2] and "#" + link.partition("#")[2])
    again.wait_for_selector(FINISHED)
    assert np.abs(pixels_of(again, f"{FINISHED} canvas") - found).max() == 0
    page.evaluate("() => { navigator.clipboard.writeText = () => Promise.reject(); }")
    page.evaluate("() => { document.execCommand = () => false; }")
    page.click(f"{FINISHED} >> nth=0 >> text=Copy link")
    assert page.get_by_role("link", name="Link to this picture").get_attribute("href") == link


def test_a_wrong_part_of_a_link_is_named_and_a_good_one_leaves_nothing_of_others(open_page):
    page = open_page("#prompt=a+rose&seed=9007199254740993&steps=4")
    fault = "The link cannot be used as it is. The seed must be a whole number from 0 to 4294967295. The form"
    assert page.inner_text("#message").startswith(fault) and page.locator("figure").count() == 0
    assert [page.input_value(at) for at in ("#prompt", "#steps", "#seed")] == ["a rose", "4", "0"]
    page.evaluate("document.getElementById('negative').value = 'fog'")
    page.evaluate("location.hash = '#prompt=a+rose&seed=7&pictures=1&steps=2&guidance=1.875'")
    page.wait_for_selector(FINISHED)
    assert page.is_hidden("#message") and page.input_value("#negative") == ""
    assert page.input_value("#guidance") == "1.875"  # between two steps of the slider
    page.click("#tab-mix")
    page.evaluate("location.hash = '#prompt=a+cat&pictures=1'")  # the rest as at the beginning
    page.wait_for_function(f"document.querySelectorAll('{FINISHED}').length === 2")
    assert page.locator("#gallery figcaption p").first.inner_text() == "a cat · seed 0"
    assert page.input_value("#steps") != "2" and page.input_value("#guidance") != "1.875"


def test_a_click_on_an_example_paints_it_in_place_of_what_is_being_painted(open_page):
    page = open_page(ready=False)
    boat, forest = (page.locator("#examples button").nth(i) for i in (0, 1))
    boat.click()  # before the model is there
    page.get_by_role("img", name=f"{boat.inner_text()} · seed 0").wait_for()
    forest.click()
    page.wait_for_selector("#go:visible")  # the boats that were not finished are gone
    captions = page.locator("#gallery figcaption p").all_inner_texts()
    assert len(captions) < 8 and captions[:4] == [f"{forest.inner_text()} · seed {seed}" for seed in range(4)]
    forest.click()  # the same again: the next seeds
    page.wait_for_selector("#go", state="hidden")
    assert page.locator("#gallery figcaption p").nth(3).inner_text().endswith("seed 7")


def test_unknown_words_and_a_link_of_another_model_are_named(open_page, served, tmp_path):
    page = open_page(permissions=["clipboard-read", "clipboard-write"])
    open_details(page)
    found, _ = paint(page, "a red dragon, watercolour")
    unknown = "red, dragon, watercolour (did you mean watercolor?)"
    assert page.inner_text("#unknown") == f"The bundled model does not know: {unknown}"
    page.click(f"{FINISHED} >> nth=0 >> text=Copy link")
    page.wait_for_selector("text=Copied")
    fragment = "#" + page.evaluate("navigator.clipboard.readText()").partition("#")[2]
    with page.expect_download() as download:
        page.click(f"{FINISHED} >> nth=0 >> text=Download")
    download.value.save_as(tmp_path / "a.png")
    record = read_provenance(tmp_path / "a.png")
    assert record["model"] == "default" and fragment.endswith(f"&model={record['fingerprint']}")
    paint(page, PROMPTS[1])
    assert page.is_hidden("#unknown") and page.is_hidden("#notice")

    # The same page with another model: only its description is another one here.
    description = json.loads((served[0] / "model.json").read_text())
    other = {"name": "the model flowers", "painter": "The model flowers", "about": "", "examples": ["a tulip"]}
    other |= {"fingerprint": "0" * 8, "prompt": "a tulip", "mix": ["a tulip", "a daisy"], "source": "flowers"}
    (served[0] / "model.json").write_text(json.dumps(description | other))
    page = open_page(fragment)
    page.wait_for_selector(FINISHED)
    assert np.abs(pixels_of(page, f"{FINISHED} canvas") - found).max() == 0
    assert "another model" in page.inner_text("#notice") and "the model flowers" in page.inner_text("#notice")
    assert page.inner_text("#unknown") == f"The model flowers does not know: {unknown}"
    assert "bundled" not in page.inner_text("body") and "cottage" not in page.inner_text("body")
    open_details(page)
    paint(page, "a cat")
    assert page.is_hidden("#notice")
    page.set_input_files("#image", tmp_path / "a.png")
    page.wait_for_selector("#notice:visible")
    assert page.inner_text("#notice").startswith("This picture was made with another model.")
    record = {"conditions": [["a cat", 2.0]], "seed": 1, "steps": 2}
    for source, state in (("/elsewhere/flowers/pipeline", "hidden"), ("my-model/pipeline", "visible")):  # of the shell
        save_picture(Image.new("RGB", (8, 8)), tmp_path / "b.png", record | {"model": source})
        page.set_input_files("#image", tmp_path / "b.png")
        page.wait_for_selector("#notice", state=state)
    older = open_page(fragment.partition("&model=")[0])
    older.wait_for_selector(FINISHED)
    assert older.is_hidden("#notice")


def test_two_prompts_are_mixed(open_page, tmp_path):
    page = open_page()
    open_details(page)
    ends = [paint(page, text)[0] for text in ("a winter forest, oil on canvas", "an autumn forest, oil on canvas")]
    page.click("#tab-mix")
    page.wait_for_function("document.getElementById('mix-state').textContent.startsWith('All')")
    for position, expected in zip(("0", "1"), ends):
        page.evaluate(f"fraction.value = {position}; fraction.dispatchEvent(new Event('input'))")
        assert np.abs(pixels_of(page, "#mix-picture canvas") - expected).max() <= 2
    page.evaluate("fraction.value = 0.5; fraction.dispatchEvent(new Event('input'))")
    middle = pixels_of(page, "#mix-picture canvas")
    assert all(np.abs(middle - end).max() > 20 for end in ends)
    with page.expect_download() as download:
        page.click("#mix-picture >> text=Download")
    assert download.value.suggested_filename == "a-winter-forest-oil-on-canvas-to-an-autumn-forest-oil-on-0.png"
    path = tmp_path / "mix.png"
    download.value.save_as(path)
    painter = Painter(CCLDPipeline.from_pretrained(default_model()))
    request = request_of_record(read_provenance(path), Limits())
    assert request.position == 0.5 and request.variation > 0
    difference = np.abs(np.asarray(painter.paint(request, lambda _: None)[0], int) - middle)
    assert difference.mean() < 2 and difference.max() <= 12, (difference.mean(), difference.max())  # int8 and float32
    for field, text, sentence in (
        ("#second", "", "Write two prompts, to mix them."),
        ("#mix-seed", str(2**32), "The seed must be a whole number from 0 to 4294967295."),
    ):
        before = page.input_value(field)
        page.fill(field, text)
        page.locator(field).blur()
        assert page.inner_text("#mix-state") == sentence
        page.fill(field, before)
    page.fill("#second", "something else")
    page.click("#tab-paint")
    page.set_input_files("#image", path)
    page.wait_for_selector("#mix:visible")
    assert page.input_value("#second") == "an autumn forest, oil on canvas"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone_and_works_by_keyboard(open_page, scheme):
    page = open_page(color_scheme=scheme)
    page.set_viewport_size({"width": 390, "height": 844})
    page.focus("#prompt")
    page.keyboard.press("Control+A")
    page.keyboard.type("a cat, ink drawing")
    page.keyboard.press("Enter")
    page.wait_for_selector(FINISHED)
    page.click("#stop")
    page.wait_for_selector("#go:visible")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, background[4:-1].split(","))) < 200) == (scheme == "dark")
    page.focus("#tab-paint")
    page.keyboard.press("ArrowRight")
    assert page.is_visible("#mix") and not page.is_visible("#paint")


def test_it_works_without_a_network_after_the_first_visit(browser, served):
    _, address, server = served
    context = browser.new_context()
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    page.goto(address)
    page.wait_for_selector("body[data-state=ready]")
    server.shutdown()
    server.server_close()
    page.reload()
    page.wait_for_selector("body[data-state=ready]")
    open_details(page)
    paint(page, PROMPTS[0])
    context.close()


def test_threads_need_no_headers_of_the_host_after_the_first_visit(browser, served):
    folder, address, server = served
    server.RequestHandlerClass = functools.partial(http.server.SimpleHTTPRequestHandler, directory=folder)
    context = browser.new_context()
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    page.goto(address)
    page.wait_for_selector("body[data-state=ready]")
    assert not page.evaluate("crossOriginIsolated")
    page.reload()
    page.wait_for_selector("body[data-state=ready]")
    assert page.evaluate("crossOriginIsolated")
    context.close()


@pytest.mark.parametrize(
    "harm, sentence",
    [
        (lambda site: (site / "model" / "onnx.json").unlink(), "onnx.json is missing on the server"),
        (lambda site: (site / "model" / "onnx.json").write_text("{"), "onnx.json is damaged"),
        (lambda site: (site / "model" / "unet.onnx").write_bytes(b"?"), "unet.onnx is damaged"),
        (lambda site: (site / "model" / "tokenizer" / "tokenizer.json").unlink(), "is missing on the server"),
    ],
)
def test_damage_is_one_sentence(open_page, served, harm, sentence):
    harm(served[0])
    page = open_page(ready=False)
    page.wait_for_selector("#message:visible")
    message = page.inner_text("#message")
    assert sentence in message and "\n" not in message
    assert page.is_disabled("#go")


def test_without_webassembly_there_is_one_sentence(open_page, served):
    worker = served[0] / "worker.js"
    worker.write_text("delete self.WebAssembly;\n" + worker.read_text())
    page = open_page(ready=False)
    page.wait_for_selector("#message:visible")
    assert page.inner_text("#message") == "This browser has no WebAssembly, which the page needs."


def test_a_picture_of_the_shell_brings_its_settings(open_page, tmp_path):
    page = open_page()
    record = json.dumps({"conditions": [["a cat, charcoal", 2.5]], "seed": 11, "steps": 7}).encode()
    picture = io.BytesIO()
    Image.new("RGB", (8, 8)).save(picture, "PNG")
    body = b"tEXtccld\0" + record
    chunk = (len(body) - 4).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big")
    (tmp_path / "a.png").write_bytes(picture.getvalue()[:33] + chunk + picture.getvalue()[33:])
    page.set_input_files("#image", tmp_path / "a.png")
    page.wait_for_function("document.getElementById('prompt').value === 'a cat, charcoal'")
    assert page.input_value("#steps") == "7" and page.input_value("#guidance") == "2.5"
