"""Random legal calls, and each illegal argument; `make random-calls` draws thousands."""

import re

import pytest

from support import random_calls
from support.random_calls.checks import check, check_refusal
from support.random_calls.drawing import PIPELINES, RandomCall, draw
from support.random_calls.illegal import ILLEGAL

COUNT = 24


@pytest.fixture(autouse=True)
def quiet(caplog):
    random_calls.quiet()


@pytest.mark.parametrize("number", range(COUNT))
def test_a_random_call(number):
    report = check(draw("suite", number))
    assert not report.complaints, report.code()
