"""The chips below the prompt, in a real browser, without a server."""

from pathlib import Path

import pytest

from diffusers_ccld import demo
from diffusers_ccld.demo.suggestions import chips_html

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def chips(browser):
    tab = browser.new_page()
    tab.set_content(f"<input id='before'>{chips_html()}<input id='after'>")
    tab.add_script_tag(path=Path(demo.__file__).with_name("chips.js"))
    yield tab
    tab.close()


def toggled(chips, prompt, *names):
    """The prompt after clicks on chips of these names."""
    toggle = """([prompt, name]) => {
      const chip = [...document.querySelectorAll(".chip")].find((other) => other.textContent === name);
      return ccldChips.toggle(prompt, chip);
    }"""
    for name in names:
        prompt = chips.evaluate(toggle, [prompt, name])
    return prompt


def said(chips, prompt):
    """The names of the chips that are highlighted for a prompt."""
    chips.evaluate("ccldChips.show", prompt)
    return chips.locator('.chip[aria-pressed="true"]').all_inner_texts()


@pytest.mark.parametrize(
    "prompt, names, expected",
    [
        ("", ["cat", "winter", "pastel"], "a cat in winter, pastel on paper"),
        ("", ["pastel", "winter", "cat"], "a cat in winter, pastel on paper"),
        ("", ["cat", "winter", "rose", "winter", "rose"], ""),
        ("a cat at night, ink", ["sunset"], "a cat at sunset, ink"),
        ("A sailing boat in summer, watercolor", ["ink", "summer"], "A sailing boat, ink on paper"),
        ("the moon at night, charcoal", ["cat", "fog"], "a cat in the fog, charcoal"),
        # A person's own words stay.
        ("my grandmother's garden", ["winter"], "my grandmother's garden, in winter"),
        ("my grandmother's garden", ["winter", "night"], "my grandmother's garden, at night"),
        (
            "my grandmother's garden",
            ["winter", "boat", "ink"],
            "my grandmother's garden, a boat in winter, ink on paper",
        ),
        ("my grandmother's garden", ["winter", "boat", "winter", "boat"], "my grandmother's garden"),
        ("my garden at night", ["sunset"], "my garden at night, at sunset"),
        ("a red cat, foggy, from above,", ["ink"], "a red cat, foggy, from above, ink on paper"),
        ("Paint my garden.", ["fog", "night"], "Paint my garden. at night"),
        ("a winter forest", ["night"], "a winter forest, at night"),
        # A highlighted chip takes its words out.
        ("a winter forest, watercolor", ["winter"], "a forest, watercolor"),
        ("an autumn forest of my own", ["autumn"], "a forest of my own"),
        ("a red cat, foggy, from above", ["fog"], "a red cat, from above"),
        ("an ink drawing of my garden, at night", ["ink", "night"], "of my garden"),
        ("In the fog, my garden", ["fog"], "my garden"),
        ("a catalogue of inkwells", ["cat"], "a catalogue of inkwells, a cat"),
    ],
)
def test_clicks_change_the_words_of_chips_alone(chips, prompt, names, expected):
    assert toggled(chips, prompt, *names) == expected


def test_words_that_a_person_has_changed_are_that_persons(chips):
    prompt = toggled(chips, "my garden", "winter")
    assert toggled(chips, f"{prompt} and a dog", "night") == "my garden, in winter and a dog, at night"


@pytest.mark.parametrize(
    "prompt, expected",
    [
        ("", []),
        (None, []),
        ("a sailing boat in summer, watercolor", ["boat", "summer", "watercolor"]),
        ("THE MOON AT NIGHT, oil on  canvas", ["moon", "night", "oil"]),
        ("a snowy forest in the mist", ["forest", "winter", "fog"]),
        ("my grandmother's garden, an ink drawing", ["ink"]),
        ("a catalogue of inkwells, stormproof", []),
    ],
)
def test_the_chips_show_what_the_prompt_says(chips, prompt, expected):
    assert said(chips, prompt) == expected


def test_a_chip_is_shown_where_it_has_written(chips):
    for name in chips.locator(".chip").all_inner_texts():
        for prompt in ("", "my own words"):
            assert said(chips, toggled(chips, prompt, name)) == [name]


def test_a_group_is_one_stop_of_the_tab_key(chips):
    focus = "document.activeElement.textContent || document.activeElement.id"
    chips.locator("#before").focus()
    seen = []
    for key in (
        "Tab",
        "ArrowRight",
        "ArrowDown",
        "ArrowLeft",
        "Tab",
        "End",
        "Home",
        "ArrowUp",
        "Tab",
        "Tab",
        "Shift+Tab",
    ):
        chips.keyboard.press(key)
        seen.append(chips.evaluate(focus))
    assert seen[:4] == ["mountain", "seascape", "forest", "seascape"]
    assert seen[4:] == ["winter", "storm", "winter", "winter", "oil", "after", "oil"]
    for _ in range(2):
        chips.keyboard.press("Shift+Tab")
    assert chips.evaluate(focus) == "seascape"
