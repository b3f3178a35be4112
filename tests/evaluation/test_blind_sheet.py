from collections import Counter

import numpy as np
import pytest
from PIL import Image

from diffusers_ccld.evaluation.blind_sheet import (
    CELL,
    LABEL,
    MARGIN,
    blind_key,
    blind_sheet,
    draw_blind,
    score_reading,
)
from diffusers_ccld.paintings import MEDIA, SUBJECTS


def test_a_sheet_of_24_asks_for_each_subject_twice_and_each_medium_four_times():
    drawn = draw_blind(24, seed=3)
    assert drawn == draw_blind(24, seed=3) != draw_blind(24, seed=4)
    assert Counter(a.subject for a in drawn) == dict.fromkeys(SUBJECTS, 2)
    assert Counter(a.medium for a in drawn) == dict.fromkeys(MEDIA, 4)
    assert [a.subject for a in drawn[:12]] != list(SUBJECTS)


def test_the_sheet_shows_every_picture_in_its_place_and_no_prompt():
    colours = [(20 * i, 100, 250 - 20 * i) for i in range(8)]
    sheet = np.asarray(blind_sheet([Image.new("RGB", (128, 128), colour) for colour in colours]))
    assert sheet.shape == (MARGIN + 2 * (CELL + LABEL + MARGIN), MARGIN + 6 * (CELL + MARGIN), 3)
    for i, colour in enumerate(colours):
        left, top = MARGIN + i % 6 * (CELL + MARGIN), MARGIN + i // 6 * (CELL + LABEL + MARGIN) + LABEL
        assert (sheet[top : top + CELL, left : left + CELL] == colour).all()
    # Beside the pictures there is white, and above each of them only a number.
    assert (sheet[MARGIN + LABEL + CELL : MARGIN + LABEL + CELL + MARGIN] == 255).all()
    assert (sheet[MARGIN : MARGIN + LABEL, MARGIN + 40 : MARGIN + CELL] == 255).all()


def test_readers_are_scored_by_attribute():
    key = blind_key(draw_blind(3, seed=1))
    answers = {number: {"subject": f" {entry['subject'].upper()}", "medium": "?"} for number, entry in key.items()}
    answers["2"]["subject"] = "a pig"
    assert score_reading(key, answers) == {"subject": (2, 3), "medium": (0, 3)}
    with pytest.raises(ValueError, match="no 'subject' for picture 4"):
        score_reading(key, {"4": {"subject": "sea"}})
