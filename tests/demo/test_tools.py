"""The painter as tools, through the MCP library's own client."""

import asyncio
import base64
import contextlib
import io
import json

import numpy as np
import pytest
from PIL import Image

from diffusers_ccld.demo.requests import parse_request, request_of_record
from support.demo_calls import LIMITS
from support.patience import get, post

QUEUE_SIZE = 2


@pytest.fixture(scope="module")
def server(painter, tmp_path_factory):
    """Address of a running demo with tools."""
    pytest.importorskip("gradio")
    pytest.importorskip("mcp")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("uploads")))
        from diffusers_ccld.demo import page as demo

        page = demo.build(painter, LIMITS, with_tools=True)
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            address = demo.launch(page, LIMITS, queue_size=QUEUE_SIZE, block=False)
        assert not printed.getvalue()
        yield address.rstrip("/")
        page.close(verbose=False)


def ask(server, *calls):
    """The tools that the server lists, and its answers to calls, each a name and arguments, made at the same time.

    Every other call asks for its progress, which Gradio answers by other code.
    """
    from mcp import ClientSession
    from mcp.client.streamable_http import streamablehttp_client

    async def talk():
        async with (
            streamablehttp_client(f"{server}/gradio_api/mcp/") as (reader, writer, _),
            ClientSession(reader, writer) as session,
        ):
            await session.initialize()
            tools = (await session.list_tools()).tools
            progress = {"progress_callback": ignore}
            pending = [session.call_tool(*call, **(progress if i % 2 else {})) for i, call in enumerate(calls)]
            return tools, await asyncio.gather(*pending)

    async def ignore(*_):
        pass

    return asyncio.run(talk())


def picture_of(answer) -> np.ndarray:
    assert not answer.isError, answer.content
    assert answer.content[0].type == "image", answer.content
    assert answer.content[0].mimeType == "image/png"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(answer.content[0].data))))


def record_of(answer) -> dict:
    """The record in the file whose address a tool returned."""
    address = answer.content[1].text.removeprefix("Image URL: ")
    return json.loads(Image.open(io.BytesIO(get(address).content)).text["ccld"])


@pytest.mark.slow
def test_the_tools_are_few_typed_and_described(server):
    tools, _ = ask(server)
    assert [tool.name for tool in tools] == ["paint", "paint_between"]
    schemas = [tool.inputSchema for tool in tools]
    assert [schema["required"] for schema in schemas] == [["prompt"], ["prompt", "second_prompt"]]
    for tool, schema in zip(tools, schemas):
        assert tool.description.startswith("Paints one picture") and "The model knows" not in tool.description
        assert all(value["type"] and value["description"] for value in schema["properties"].values())


@pytest.mark.slow
def test_a_tool_paints_what_the_demo_paints(server, painter):
    values = {"prompt": "a rose & fog", "seed": 11, "num_inference_steps": 3, "guidance_scale": 2.0}
    _, (answer, again) = ask(server, ("paint", values), ("paint", values))
    own = {"algorithm": painter.algorithm, "num_images": 1}
    (expected,) = painter.paint(parse_request("paint", values | own, LIMITS), lambda _: None)
    assert np.array_equal(picture_of(answer), np.asarray(expected))
    assert np.array_equal(picture_of(again), np.asarray(expected))
    assert record_of(answer)["prompt"] == "a rose & fog"


@pytest.mark.slow
def test_a_call_names_unknown_words_with_and_without_progress(server, painter, monkeypatch):
    monkeypatch.setattr(painter, "vocabulary", {"a</w>", "cat</w>"})
    calls = [("paint", {"prompt": prompt, "num_inference_steps": 1}) for prompt in ("a red cat",) * 2 + ("a cat",) * 2]
    answers = [answer for pair in (calls[:2], calls[2:]) for answer in ask(server, *pair)[1]]
    for answer in answers:
        picture_of(answer)
    texts = [[content.text for content in answer.content[1:]] for answer in answers]
    assert [len(text) for text in texts] == [2, 2, 1, 1]
    assert all(text[0].startswith("Image URL") for text in texts)
    assert all(text[1].endswith("does not know: red") for text in texts[:2])


@pytest.mark.slow
def test_a_tool_paints_between_prompts_with_the_models_own_settings(server, painter):
    prompts = {"prompt": "a rose", "second_prompt": "a cat", "seed": 5}
    at = [("paint_between", {**prompts, "position": position}) for position in (0, 1)]
    _, (first, second) = ask(server, *at)
    assert not np.array_equal(picture_of(first), picture_of(second))
    request = request_of_record(record_of(second), LIMITS)
    assert (request.task, request.prompt, request.second_prompt) == ("between", "a rose", "a cat")
    assert np.array_equal(painter.paint(request, lambda _: None)[0], picture_of(second))


@pytest.mark.slow
@pytest.mark.parametrize(
    "tool, values, message",
    [
        ("paint", {}, "'prompt' is a required property"),
        ("paint", {"prompt": ""}, "Write a prompt"),
        ("paint", {"prompt": "x" * 101}, "101 characters"),
        ("paint", {"prompt": "a", "num_inference_steps": 61}, "steps must be a whole number from 1 to 60"),
        ("paint", {"prompt": "a", "num_inference_steps": "many"}, "'many' is not of type 'integer'"),
        ("paint", {"prompt": "a", "guidance_scale": 16}, "guidance must be"),
        ("paint", {"prompt": "a", "seed": -1}, "seed must be"),
        ("paint_between", {"prompt": "a", "second_prompt": " "}, "Write two prompts"),
        ("partial", {"prompt": "a"}, "Unknown tool"),
    ],
)
def test_a_wrong_call_gets_one_sentence(server, tool, values, message):
    _, (answer,) = ask(server, (tool, values))
    (content,) = answer.content
    assert answer.isError and message in content.text
    assert len(content.text.splitlines()) == 1 and "Traceback" not in content.text


@pytest.mark.slow
def test_a_full_queue_says_so_and_other_paths_stay_closed(server, evaluations):
    values = {"prompt": "a rose", "num_inference_steps": 10}
    _, answers = ask(server, *[("paint", values)] * 6)
    refused = [answer.content[0].text for answer in answers if answer.isError]
    assert 1 <= len(refused) <= 6 - QUEUE_SIZE and all("full" in text for text in refused)
    assert get(f"{server}/gradio_api/mcp/").status_code == 405
    for path in ("mcp/sse", "mcp/schema", "mcp/messages/", "mcp/http"):
        assert post(f"{server}/gradio_api/{path}", json={}).status_code == 404
    assert post(f"{server}/gradio_api/mcp/", json={"data": "x" * 300_000}).status_code == 413
