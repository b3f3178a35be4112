"""A painter of a small model and the times of its evaluations; the page of the bundled model in a browser."""

import time

import pytest

from diffusers_ccld import CCLDPipeline, default_model
from diffusers_ccld.demo.painter import Painter
from support.browser import chromium
from support.demo_page import new_tab


@pytest.fixture(scope="module")
def painter(trainable_folder):
    return Painter(CCLDPipeline.from_pretrained(trainable_folder))


@pytest.fixture
def evaluations(painter):
    """Times of the network's evaluations, each slowed down by a twentieth of a second."""
    counted = []

    def count(*_):
        counted.append(time.monotonic())
        time.sleep(0.05)

    hook = painter._components["unet"].register_forward_pre_hook(count)
    yield counted
    hook.remove()


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
    tab = new_tab(browser)
    asked = []
    tab.on("request", lambda request: asked.append(request.url))
    tab.goto(bundled_server)
    tab.get_by_text("Details").click()
    tab.get_by_label("number input for Steps").fill("8")
    tab.get_by_label("number input for Pictures").fill("1")
    yield tab
    tab.close()
    assert asked and all(url.startswith((bundled_server, "data:", "blob:")) for url in asked)
