"""The server of the demo: calls, uploads, the queue, and requests that it refuses."""

import asyncio
import contextlib
import json
import re
import runpy
import socket
from urllib.parse import parse_qsl

import httpx
import numpy as np
import pytest

from diffusers_ccld.demo.links import parse_link
from support.demo_calls import LIMITS, META, call, fetch, inputs, png
from support.patience import PATIENCE, get, post, stream, wait_until
from support.scripts import ROOT

QUEUE_SIZE = 3


@pytest.fixture(scope="module")
def server(painter, tmp_path_factory):
    """Address of a running demo."""
    pytest.importorskip("gradio")
    with pytest.MonkeyPatch.context() as monkeypatch:
        folder = tmp_path_factory.mktemp("uploads")
        monkeypatch.setenv("GRADIO_TEMP_DIR", str(folder))
        from diffusers_ccld.demo import page as demo

        page = demo.build(painter, LIMITS)
        yield demo.launch(page, LIMITS, queue_size=QUEUE_SIZE, block=False).rstrip("/")
        page.close(verbose=False)


def upload(server, content) -> dict:
    answer = post(f"{server}/gradio_api/upload", files={"files": ("picture.png", content)})
    assert answer.status_code == 200, answer.text
    return {"path": answer.json()[0], "meta": META}


def test_a_call_paints_and_its_link_paints_the_same_again(server, painter):
    event, (gallery, seed, note, _) = call(server, inputs("rose & fog", images=2, seed=11))
    assert (event, seed) == ("complete", 11)
    pictures = [fetch(server, item["image"]) for item in gallery]
    query = re.search(r'href="\?([^"]*)"', note).group(1).replace("&amp;", "&")
    linked = parse_link(dict(parse_qsl(query, keep_blank_values=True)), LIMITS).request
    again = painter.paint(linked, lambda _: None)
    assert [np.array_equal(a, b) for a, b in zip(pictures, again)] == [True, True]
    assert json.loads(pictures[1].text["ccld"])["seed"] == 12


def test_a_call_paints_from_an_uploaded_picture(server):
    file = upload(server, png())
    event, (gallery, _, note, _) = call(server, inputs("", image_prompt=file))
    assert event == "complete" and "href" not in note
    plain = call(server, inputs("a rose"))[1][0]
    assert not np.array_equal(fetch(server, gallery[0]["image"]), fetch(server, plain[0]["image"]))


def test_the_benchmark_of_the_load_gets_pictures(server):
    paint_one = runpy.run_path(str(ROOT / "benchmarks" / "demo_load.py"))["paint_one"]

    async def paint():
        async with httpx.AsyncClient(base_url=server, timeout=PATIENCE) as http:
            return await paint_one(http, "a rose", 2)

    assert asyncio.run(paint()) == "picture"


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"steps": 61}, "steps must be"),
        ({"steps": "many"}, "steps must be"),
        ({"images": 3}, "number of pictures"),
        ({"prompt": "x" * 101}, "101 characters"),
        ({"prompt": {"a": 1}}, "must be a text"),
        ({"prompt": "\ud800"}, "characters"),
        ({"seed": -1}, "seed must be"),
        ({"algorithm": "<script>"}, "algorithm must be"),
        ({"image_prompt": "/etc/passwd"}, "uploaded file"),
        ({"image_prompt": [1, 2]}, "uploaded file"),
        ({"guidance_scale": None}, "guidance must be"),
        ({"random_seed": {"a": 1}, "seed": "x"}, "seed must be"),
        ({"prompt": ""}, "Write a prompt"),
    ],
)
def test_calls_out_of_bounds_get_a_sentence(server, changes, message):
    event, answer = call(server, inputs(**changes))
    assert event == "error" and message in answer["error"]
    assert "Traceback" not in str(answer)


def test_other_files_and_addresses_are_refused(server, monkeypatch, tmp_path):
    from gradio import processing_utils

    fetched = []
    monkeypatch.setattr(processing_utils.sh, "get", lambda url, **_: fetched.append(url))
    (tmp_path / "secret.png").write_bytes(png())
    for path in (
        str(tmp_path / "secret.png"),
        "/etc/passwd",
        "https://example.org/a.png",
        "http://127.0.0.1/a.png",
        "",
        5,
    ):
        for file in ({"path": path, "meta": META}, {"path": path}, {"path": path, "url": path, "meta": META}):
            for data in (inputs(image_prompt=file), inputs(prompt=file), inputs(image_prompt=[{"a": [file]}])):
                answer = post(f"{server}/gradio_api/call/paint", json={"data": data})
                assert answer.status_code == 400 and "uploaded file" in answer.json()["detail"]
    for path in (
        "file=https://example.org/",
        "file=http:/127.0.0.1",
        "proxy=https://example.hf.space/a",
        "file=/etc/passwd",
    ):
        assert get(f"{server}/gradio_api/{path}").status_code in (403, 404)
    assert not fetched


@pytest.mark.parametrize(
    "path, body, status",
    [
        ("call/paint", b"{", 400),
        ("call/paint", b"[]", 400),
        ("call/paint", b"[" * 100_000, 400),
        ("call/paint", b'{"data": ' + b"[" * 20 + b"]" * 20 + b"}", 400),
        ("call/paint", b'{"data": []}', 400),
        ("call/paint", b'{"data": 5}', 400),
        ("call/paint", b" " * 300_000, 413),
        ("call/nothing", b'{"data": []}', 404),
        ("call/v2/paint", b"{}", 404),
        ("queue/join", b'{"data": [], "fn_index": 99, "session_hash": "a"}', 404),
        ("queue/join", b'{"data": [], "fn_index": [], "session_hash": "a"}', 404),
        ("cancel", b'{"event_id": 5}', 422),
        ("upload", b"abc", 400),
        ("run/paint", b'{"data": []}', 404),
        ("component_server", b"{}", 404),
        ("process_recording", b"", 404),
        ("vibe-edit", b"{}", 404),
        ("mcp/", b"{}", 404),
    ],
)
def test_malformed_requests_are_refused(server, path, body, status):
    answer = post(f"{server}/gradio_api/{path}", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == status and "Traceback" not in answer.text
    if path in ("call/paint", "queue/join"):
        assert answer.json()["detail"]


def test_requests_cannot_bypass_the_queue(server):
    page = get(f"{server}/config").json()
    index = next(function["id"] for function in page["dependencies"] if function["api_name"] == "paint")
    answer = post(f"{server}/gradio_api/run/predict", json={"data": inputs(), "fn_index": index})
    assert answer.status_code == 404 and "queue" in answer.json()["detail"]


def test_large_and_boundless_uploads_are_refused(server):
    upload_address = f"{server}/gradio_api/upload"
    assert post(upload_address, files={"files": ("a.png", bytes(2**20 + 1))}).status_code == 413
    assert post(upload_address, files={"files": ("a.png", bytes(2**22))}).status_code == 413
    boundless = post(upload_address, content=(b"x" for _ in range(3)), headers={"content-type": "multipart/form-data"})
    assert boundless.status_code == 411
    # The length would be checked, but the chunks would be read.
    address = httpx.URL(upload_address)
    with socket.create_connection((address.host, address.port)) as connection:
        connection.sendall(
            f"POST {address.path} HTTP/1.1\r\nHost: {address.host}\r\nContent-Length: 5\r\n"
            "Transfer-Encoding: chunked\r\nContent-Type: multipart/form-data; boundary=x\r\n\r\n".encode()
        )
        assert connection.recv(100).split()[1] in (b"400", b"411")


def wait_until_idle(painter, evaluations):
    """Waits until the painter has ended what it paints, and returns the number of evaluations."""
    assert painter._lock.acquire(timeout=PATIENCE), "The painting did not end."
    painter._lock.release()
    return len(evaluations)


def test_the_painting_ends_when_the_client_leaves(server, painter, evaluations):
    event = post(f"{server}/gradio_api/call/paint", json={"data": inputs(steps=60)}).json()["event_id"]
    with stream("GET", f"{server}/gradio_api/call/paint/{event}") as answered:
        lines = answered.iter_lines()
        for _ in range(12):
            next(lines)
    seen = len(evaluations)
    assert 1 <= seen < 60
    assert wait_until_idle(painter, evaluations) < 60  # how many more depends on the machine's other work
    assert call(server, inputs())[0] == "complete"


def test_the_painting_ends_when_it_is_cancelled(server, painter, evaluations):
    page = get(f"{server}/config").json()
    index = next(function["id"] for function in page["dependencies"] if function["api_name"] == "paint")
    join = {"data": inputs(steps=60), "fn_index": index, "session_hash": "leaver"}
    event = post(f"{server}/gradio_api/queue/join", json=join).json()["event_id"]
    wait_until(lambda: len(evaluations) >= 4, "The painting begins.")
    cancel = {"session_hash": "leaver", "fn_index": index, "event_id": event}
    assert post(f"{server}/gradio_api/cancel", json=cancel).status_code == 200
    assert wait_until_idle(painter, evaluations) < 60


def test_a_full_queue_says_so(server, evaluations):
    answers = [post(f"{server}/gradio_api/call/paint", json={"data": inputs(steps=3)}) for _ in range(8)]
    taken = [answer.json()["event_id"] for answer in answers if answer.status_code == 200]
    refused = [answer for answer in answers if answer.status_code != 200]
    assert QUEUE_SIZE <= len(taken) <= QUEUE_SIZE + 2
    assert {answer.status_code for answer in refused} == {503} and "full" in refused[0].json()["detail"]
    for event in taken:
        with stream("GET", f"{server}/gradio_api/call/paint/{event}") as answered:
            assert "event: complete" in list(answered.iter_lines())


def test_closing_the_generator_ends_the_painting(painter, evaluations):
    pytest.importorskip("gradio")
    from diffusers_ccld.demo.page import Studio

    async def leave():
        values = {"prompt": "a", "num_inference_steps": 50, "num_images": 1, "seed": 1}
        async with contextlib.aclosing(Studio(painter, LIMITS).run("paint", **values)) as updates:
            async for _ in updates:
                if len(evaluations) >= 3:
                    return len(evaluations)

    seen = asyncio.run(leave())
    assert wait_until_idle(painter, evaluations) <= seen + 1


def test_the_page_loads_nothing_from_other_servers(server):
    page = get(server).text + get(f"{server}/theme.css").text
    assert "fonts.googleapis" not in page and "cdnjs" not in page
    config = get(f"{server}/config").json()
    assert config["analytics_enabled"] is False and config["show_error"] is False
