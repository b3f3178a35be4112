"""Answers of the Hub about a repository, without a network."""

import httpx
import pytest
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

from diffusers_ccld.inference.loading import hub_options
from diffusers_ccld.utils.hub import is_on_hub

RESPONSE = httpx.Response(404, request=httpx.Request("GET", "http://localhost"))


@pytest.mark.parametrize(
    "error, answer",
    [
        (None, True),
        (RepositoryNotFoundError("none", response=RESPONSE), False),
        (HfHubHTTPError("busy", response=RESPONSE), True),
        (OSError("no network"), None),
    ],
)
@pytest.mark.parametrize("kind", ["model", "dataset"])
def test_the_hub_is_asked_once_and_in_time(error, answer, kind, monkeypatch):
    asked = []

    def repo_info(_, name, **options):
        asked.append((name, options["repo_type"]))
        assert options["timeout"] <= 10
        if error is not None:
            raise error

    monkeypatch.setattr("huggingface_hub.HfApi.repo_info", repo_info)
    assert is_on_hub("somebody/thing", kind) is answer
    assert asked == [("somebody/thing", kind)]


def test_a_model_that_the_hub_does_not_have_is_named(monkeypatch):
    monkeypatch.setattr("diffusers_ccld.inference.loading.is_on_hub", lambda *_: False)
    with pytest.raises(ValueError, match="no such folder, and no such public model on the Hub"):
        hub_options("somebody/model")
