"""Pictures that are given to the page in a real browser: the form takes their settings."""

import pytest
from PIL import Image

from diffusers_ccld.inference.provenance import save_picture
from support.demo_page import next_picture, wait

DROP = """([selector, bytes]) => {
    const data = new DataTransfer();
    data.items.add(new File([new Uint8Array(bytes)], "ours.png", { type: "image/png" }));
    const drop = (type) => new DragEvent(type, { dataTransfer: data, bubbles: true, cancelable: true });
    const target = document.querySelector(selector);
    return ["dragover", "drop"].map((type) => target.dispatchEvent(drop(type)));
}"""


def seed_of(tab):
    return tab.get_by_label("Seed", exact=True).input_value()


@pytest.mark.slow
def test_a_picture_of_another_model_says_so_and_nothing_says_that_it_comes_back(tab, tmp_path):
    claim = tab.get_by_text("the same settings paint the same pictures")
    notice = tab.get_by_text("The picture was made with another model.")
    for model, is_other in (("default", False), ("my-model/pipeline", True)):
        record = {"conditions": [[model, 2.0]], "seed": 77, "steps": 2, "model": model}
        save_picture(Image.new("RGB", (8, 8)), tmp_path / "a.png", record)
        tab.locator("#details input[type=file][accept*=png]").last.set_input_files(tmp_path / "a.png")
        tab.wait_for_function("(text) => document.querySelector('#prompt textarea').value === text", arg=model)
        tab.get_by_text("The seed is kept").wait_for()
        notice.wait_for(state="visible" if is_other else "hidden")
        assert claim.is_visible() != is_other
        tab.locator("#settings [aria-label=Clear], #settings [title=Clear]").first.click()
    next_picture(tab)
    claim.wait_for()  # it is true of the page's own picture


@pytest.mark.slow
def test_a_dropped_picture_fills_the_form(tab, tmp_path):
    record = {"conditions": [["a cat on a rug", 2.0]], "seed": 77, "steps": 9, "algorithm": "ddim"}
    save_picture(Image.new("RGB", (8, 8)), tmp_path / "ours.png", record)
    tab.locator("#details input[type=file][accept*=png]").last.set_input_files(tmp_path / "ours.png")
    tab.wait_for_function("document.querySelector('#prompt textarea').value === 'a cat on a rug'")
    assert tab.get_by_label("number input for Steps").input_value() == "9"
    assert seed_of(tab) == "77"
    save_picture(Image.new("RGB", (8, 8)), tmp_path / "other.png", record | {"seed": 2**53 + 1})
    tab.locator("#settings [aria-label=Clear], #settings [title=Clear]").first.click()
    tab.locator("#details input[type=file][accept*=png]").last.set_input_files(tmp_path / "other.png")
    refused = "settings cannot be used. The seed must be a whole number from 0 to 4294967295."
    notice = tab.get_by_text(f"The given picture's {refused}")
    notice.wait_for()
    wait(tab, lambda: 0 < notice.bounding_box()["y"] < 900, "The notice is in sight.")
    assert seed_of(tab) == "77"
    next_picture(tab)
    assert not notice.is_visible()
    tab.goto(tab.url.replace("seed=77", f"seed={2**53 + 1}"))
    tab.get_by_text(f"The link cannot be used as it is. {refused.partition('. ')[2]}").wait_for()
    assert tab.evaluate("finished") == 0


@pytest.mark.slow
def test_a_picture_may_be_dropped_anywhere(tab, tmp_path):
    tab.get_by_text("Details").click()  # closes them
    for i, place in enumerate(("body", "#prompt textarea", "#studio")):
        record = {"conditions": [["a cat on a rug", 2.0]], "seed": 70 + i, "steps": 9, "algorithm": "ddim"}
        save_picture(Image.new("RGB", (8, 8)), tmp_path / "ours.png", record)
        assert tab.evaluate(DROP, [place, list((tmp_path / "ours.png").read_bytes())]) == [False, False]
        wait(tab, lambda seed=str(70 + i): seed_of(tab) == seed, "The form has the seed.")
    assert tab.locator("#prompt textarea").input_value() == "a cat on a rug"
