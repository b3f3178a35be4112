import asyncio
import contextlib
import io
import json
import math
import re
import runpy
import socket
import struct
import sys
import time
import zlib
from pathlib import Path
from urllib.parse import parse_qsl

import httpx
import numpy as np
import pytest
import torch
from PIL import Image

from diffusers_ccld import CCLDImg2ImgPipeline, CCLDPipeline, CLOOBImageProcessor, default_model
from diffusers_ccld.cli import main
from diffusers_ccld.demo.painter import Painter, PaintingCancelledError
from diffusers_ccld.demo.requests import LAST_SEED, Limits, parse_link, parse_request

LIMITS = Limits(prompt_length=100, num_inference_steps=60, num_images=2, image_bytes=2**20, image_pixels=10**6)
QUEUE_SIZE = 3
META = {"_type": "gradio.FileData"}


def png(size=(80, 60), colour="red", mode="RGB") -> bytes:
    file = io.BytesIO()
    Image.new(mode, size, colour).save(file, "PNG")
    return file.getvalue()


def bomb(width: int, height: int) -> bytes:
    """A small PNG file that says that it is large."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes(10**6))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


# What is asked for


GOOD = {
    "prompt": ["a rose", "x" * 100, "https://example.org/rose.png", " \n 雪 "],
    "negative_prompt": ["", None, "fog"],
    "num_inference_steps": [1, 60, 60.0],
    "guidance_scale": [0, 15, 2.5],
    "image_prompt_weight": [0, 1],
    "strength": [0.02, 1],
    "num_images": [1, 2],
    "seed": [0, LAST_SEED, None],
    "algorithm": ["plms", "ddpm"],
}
NO_NUMBERS = [None, True, "5", math.nan, math.inf, -math.inf, [1], {}, 10**400]
BAD = {
    "prompt": ["", "  ", None, 5, ["a"], {"path": "/etc/passwd"}, "x" * 101, "\ud800"],
    "negative_prompt": [5, ["a"], "x" * 101, "\udfff"],
    "num_inference_steps": [*NO_NUMBERS, 0, -1, 61, 1.5, 1e300],
    "guidance_scale": [*NO_NUMBERS, -0.1, 15.1],
    "image_prompt_weight": [*NO_NUMBERS, -0.1, 1.1],
    "strength": [*NO_NUMBERS, 0, 1.01],
    "num_images": [*NO_NUMBERS, 0, 3],
    "seed": [*NO_NUMBERS[1:], -1, 0.5, LAST_SEED + 1],
    "algorithm": [None, "", "euler", ["plms"], {}, 3],
}


@pytest.mark.parametrize("name, value", [(name, value) for name, values in GOOD.items() for value in values])
def test_what_is_in_bounds_is_taken(name, value):
    request = parse_request("paint", {"prompt": "a rose", name: value}, LIMITS)
    if value is not None:
        assert getattr(request, name) == (value.strip() if isinstance(value, str) else value)


@pytest.mark.parametrize("name, value", [(name, value) for name, values in BAD.items() for value in values])
def test_what_is_out_of_bounds_is_refused_in_a_sentence(name, value):
    with pytest.raises(ValueError, match=r"^[A-Z][^\n]*\.$"):
        parse_request("paint", {"prompt": "a rose", name: value}, LIMITS)


def test_seeds_are_drawn_where_none_is_given():
    seeds = {parse_request("paint", {"prompt": "a rose"}, LIMITS).seed for _ in range(20)}
    assert len(seeds) == 20 and all(0 <= seed <= LAST_SEED for seed in seeds)


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "no picture"),
        (b"hello", "no picture"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "no picture"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "no picture"),
        (png()[:60], "damaged"),
        (bomb(30000, 30000), "million pixels"),
        (bomb(10**6, 10**6), "picture"),
        (bomb(900, 900)[:-20], "damaged"),
        (bytes(2**20 + 1), "larger than 1 MB"),
    ],
)
def test_hostile_pictures_are_refused(content, message, tmp_path):
    (tmp_path / "picture.png").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        parse_request("paint", {"image_prompt": {"path": str(tmp_path / "picture.png")}}, LIMITS, tmp_path)


def test_only_uploads_are_read(tmp_path):
    uploads = tmp_path / "uploads"
    uploads.mkdir()
    outside = tmp_path / "secret.png"
    outside.write_bytes(png())
    (uploads / "link.png").symlink_to(outside)
    (uploads / "good.png").write_bytes(png())
    paths = [
        str(outside),
        str(uploads / "link.png"),
        str(uploads / ".." / "secret.png"),
        str(uploads),
        "good.png",
        "a\0b",
    ]
    paths += ["http://127.0.0.1/a.png", "file://" + str(uploads / "good.png"), 5, None]
    for source in [{"path": path} for path in paths] + ["good.png", {"url": "http://127.0.0.1/a.png"}, 5, [], True]:
        with pytest.raises(ValueError, match="uploaded file"):
            parse_request("paint", {"image_prompt": source}, LIMITS, uploads)
    request = parse_request("paint", {"image_prompt": {"path": str(uploads / "good.png")}}, LIMITS, uploads)
    assert request.image_prompt.size == (80, 60)


def test_pictures_are_turned_upright_and_put_on_white():
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    Image.new("RGB", (80, 60)).save(file, "JPEG", exif=exif)
    values = {"picture": file.getvalue(), "image_prompt": png(colour=(0, 0, 0, 0), mode="RGBA")}
    request = parse_request("edit", values, LIMITS)
    assert request.picture.size == (60, 80)
    assert request.image_prompt.getpixel((0, 0)) == (255, 255, 255)


def test_masks_are_where_something_was_drawn():
    layer = Image.new("RGBA", (80, 60))
    layer.paste((255, 255, 255, 9), (10, 20, 30, 40))
    file = io.BytesIO()
    layer.save(file, "PNG")
    values = {"prompt": "a rose", "picture": png()}
    request = parse_request("inpaint", values | {"mask": [None, file.getvalue()]}, LIMITS)
    assert request.mask.getbbox() == (10, 20, 30, 40)
    for mask in (None, [], [None], [png(colour=(0, 0, 0, 0), mode="RGBA")], [None] * 5, "x"):
        with pytest.raises(ValueError):
            parse_request("inpaint", values | {"mask": mask}, LIMITS)
    for task in ("image_to_image", "edit", "inpaint"):
        with pytest.raises(ValueError, match="Give a picture"):
            parse_request(task, {"prompt": "a rose"}, LIMITS)


# Links


def test_links_come_back_as_they_went():
    values = {
        "prompt": "rose & <b>fog</b> #1 + 雪?",
        "negative_prompt": "a=b",
        "seed": 7,
        "num_images": 2,
        "algorithm": "ddim",
    }
    request = parse_request("paint", {**values, "num_inference_steps": 3, "guidance_scale": 2.125}, LIMITS)
    query = dict(parse_qsl(request.link()[1:], keep_blank_values=True))
    assert parse_link(query, LIMITS) == request
    assert parse_link({}, LIMITS) is None and parse_link({"__theme": "dark"}, LIMITS) is None
    assert parse_request("paint", {"image_prompt": png()}, LIMITS).link() is None
    for change in (
        {"seed": "x"},
        {"seed": "nan"},
        {"num_images": "99"},
        {"algorithm": "euler"},
        {"prompt": "x" * 101},
    ):
        with pytest.raises(ValueError):
            parse_link(query | change, LIMITS)
    with pytest.raises(ValueError, match=r"does not say .*algorithm"):
        parse_link({"prompt": "a rose"}, LIMITS)


# Painting


@pytest.fixture(scope="module")
def painter(trainable_folder):
    return Painter(CCLDPipeline.from_pretrained(trainable_folder))


@pytest.fixture
def evaluations(painter):
    """Counts evaluations of the network, each of which takes a twentieth of a second."""
    counted = []

    def count(*_):
        counted.append(time.monotonic())
        time.sleep(0.05)

    hook = painter._components["unet"].register_forward_pre_hook(count)
    yield counted
    hook.remove()


def paint(painter, task="paint", **values):
    request = parse_request(task, {"prompt": "a rose", "seed": 3, "num_inference_steps": 2, **values}, LIMITS)
    shares = []
    pictures = painter.paint(request, shares.append)
    assert shares == sorted(shares) and shares[-1] == 1
    return pictures


def test_pictures_are_those_of_the_pipeline(painter, trainable_folder):
    pipe = CCLDPipeline.from_pretrained(trainable_folder)
    generators = [torch.Generator().manual_seed(seed) for seed in (3, 4)]
    expected = pipe("a rose", num_images_per_prompt=2, num_inference_steps=2, generator=generators).images
    pictures = paint(painter, num_images=2)
    assert [np.array_equal(a, b) for a, b in zip(pictures, expected)] == [True, True]
    assert [json.loads(picture.info["ccld"])["seed"] for picture in pictures] == [3, 4]
    # The sampler of one request is not that of the next.
    assert not np.array_equal(paint(painter, algorithm="plms2")[0], pictures[0])
    assert np.array_equal(paint(painter, num_images=2)[0], pictures[0])


def test_every_task_is_that_of_its_pipeline(painter, trainable_folder):
    picture = Image.open(io.BytesIO(png((64, 64))))
    pipe = CCLDImg2ImgPipeline.from_pretrained(trainable_folder)
    size = (32, 32)
    options = {"num_inference_steps": 4, "strength": 0.9}
    picture = picture.resize(size)
    expected = pipe.edit(picture, "a rose", **options).images[0]
    assert np.array_equal(paint(painter, "edit", picture=png((64, 64)), **options)[0], expected)
    expected = pipe("a rose", picture, **options, generator=torch.Generator().manual_seed(3)).images[0]
    assert np.array_equal(paint(painter, "image_to_image", picture=png((64, 64)), **options)[0], expected)

    layer = Image.new("RGBA", size)
    layer.paste("white", (0, 0, size[0] // 2, size[1]))
    file = io.BytesIO()
    layer.save(file, "PNG")
    values = {"picture": png(size, "white"), "mask": [file.getvalue()], "num_inference_steps": 4}
    pixels = np.asarray(paint(painter, "inpaint", **values)[0], float)
    kept = np.asarray(paint(painter, "inpaint", **values, algorithm="ddim", seed=9)[0], float)
    half = size[0] // 2
    assert np.array_equal(pixels[:, half:], kept[:, half:]) and not np.array_equal(pixels[:, :half], kept[:, :half])


@pytest.mark.parametrize("size, expected", [((300, 100), (48, 16)), ((100, 900), (16, 64)), ((990, 1000), (32, 32))])
def test_sizes_follow_the_picture_and_are_bounded(painter, size, expected):
    assert paint(painter, "image_to_image", picture=png(size))[0].size == expected


@pytest.mark.parametrize("task", ["paint", "image_to_image", "edit", "inpaint"])
def test_what_on_step_raises_ends_the_painting_there(painter, task, evaluations):
    mask = [png(colour=(255, 255, 255, 255), mode="RGBA")]
    values = {"prompt": "a", "num_inference_steps": 20, "algorithm": "ddim", "picture": png(), "mask": mask}

    def on_step(share):
        if len(evaluations) == 3:
            raise PaintingCancelledError

    with pytest.raises(PaintingCancelledError):
        painter.paint(parse_request(task, values, LIMITS), on_step)
    assert len(evaluations) == 3
    assert paint(painter, num_inference_steps=1)  # the next finds all in order


# The server


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


def inputs(prompt="a rose", steps=2, images=1, seed=3, image_prompt=None, **changes) -> list:
    """The inputs of the function "paint", in order."""
    values = {
        "prompt": prompt,
        "negative_prompt": "",
        "num_inference_steps": steps,
        "guidance_scale": 3,
        "algorithm": "plms",
        "num_images": images,
        "seed": seed,
        "random_seed": False,
        "image_prompt": image_prompt,
        "image_prompt_weight": 0.5,
    }
    return list((values | changes).values())


def call(server, data, function="paint"):
    """Calls as the page's documentation says; gives the last event and its data."""
    body, headers = json.dumps({"data": data}), {"content-type": "application/json"}
    answer = httpx.post(f"{server}/gradio_api/call/{function}", content=body, headers=headers)
    assert answer.status_code == 200, answer.text
    with httpx.stream("GET", f"{server}/gradio_api/call/{function}/{answer.json()['event_id']}", timeout=60) as stream:
        lines = list(stream.iter_lines())
    event, data = lines[-3:-1] if not lines[-1] else lines[-2:]
    return event.removeprefix("event: "), json.loads(data.removeprefix("data: "))


def fetch(server, file) -> Image.Image:
    picture = Image.open(io.BytesIO(httpx.get(f"{server}/gradio_api/file={file['path']}").content))
    picture.load()
    return picture


def upload(server, content) -> dict:
    answer = httpx.post(f"{server}/gradio_api/upload", files={"files": ("picture.png", content)})
    assert answer.status_code == 200, answer.text
    return {"path": answer.json()[0], "meta": META}


def test_a_call_paints_and_its_link_paints_the_same_again(server, painter):
    event, (gallery, seed, note) = call(server, inputs("rose & fog", images=2, seed=11))
    assert (event, seed) == ("complete", 11)
    pictures = [fetch(server, item["image"]) for item in gallery]
    query = re.search(r'href="\?([^"]*)"', note).group(1).replace("&amp;", "&")
    linked = parse_link(dict(parse_qsl(query, keep_blank_values=True)), LIMITS)
    again = painter.paint(linked, lambda _: None)
    assert [np.array_equal(a, b) for a, b in zip(pictures, again)] == [True, True]
    assert json.loads(pictures[1].text["ccld"])["seed"] == 12


def test_a_call_paints_from_an_uploaded_picture(server):
    file = upload(server, png())
    event, (gallery, _, note) = call(server, inputs("", image_prompt=file))
    assert event == "complete" and "href" not in note
    plain = call(server, inputs("a rose"))[1][0]
    assert not np.array_equal(fetch(server, gallery[0]["image"]), fetch(server, plain[0]["image"]))


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
                answer = httpx.post(f"{server}/gradio_api/call/paint", json={"data": data})
                assert answer.status_code == 400 and "uploaded file" in answer.json()["detail"]
    for path in (
        "file=https://example.org/",
        "file=http:/127.0.0.1",
        "proxy=https://example.hf.space/a",
        "file=/etc/passwd",
    ):
        assert httpx.get(f"{server}/gradio_api/{path}").status_code in (403, 404)
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
    ],
)
def test_malformed_requests_are_refused(server, path, body, status):
    answer = httpx.post(f"{server}/gradio_api/{path}", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == status and "Traceback" not in answer.text
    if path in ("call/paint", "queue/join"):
        assert answer.json()["detail"]


def test_paintings_cannot_jump_the_queue(server):
    page = httpx.get(f"{server}/config").json()
    index = next(function["id"] for function in page["dependencies"] if function["api_name"] == "paint")
    answer = httpx.post(f"{server}/gradio_api/run/predict", json={"data": inputs(), "fn_index": index})
    assert answer.status_code == 404 and "queue" in answer.json()["detail"]


def test_large_and_boundless_uploads_are_refused(server):
    upload_address = f"{server}/gradio_api/upload"
    assert httpx.post(upload_address, files={"files": ("a.png", bytes(2**20 + 1))}).status_code == 413
    assert httpx.post(upload_address, files={"files": ("a.png", bytes(2**22))}).status_code == 413
    boundless = httpx.post(
        upload_address, content=(b"x" for _ in range(3)), headers={"content-type": "multipart/form-data"}
    )
    assert boundless.status_code == 411
    # A length beside chunks would be checked, and the chunks heeded.
    address = httpx.URL(upload_address)
    with socket.create_connection((address.host, address.port)) as connection:
        connection.sendall(
            f"POST {address.path} HTTP/1.1\r\nHost: {address.host}\r\nContent-Length: 5\r\n"
            "Transfer-Encoding: chunked\r\nContent-Type: multipart/form-data; boundary=x\r\n\r\n".encode()
        )
        assert connection.recv(100).split()[1] in (b"400", b"411")


def wait_until_idle(evaluations):
    """Waits until half a second goes by without an evaluation; gives their number."""
    while time.monotonic() - evaluations[-1] < 0.5:
        time.sleep(0.05)
    return len(evaluations)


def test_the_painting_ends_when_the_client_leaves(server, evaluations):
    event = httpx.post(f"{server}/gradio_api/call/paint", json={"data": inputs(steps=60)}).json()["event_id"]
    with httpx.stream("GET", f"{server}/gradio_api/call/paint/{event}", timeout=60) as stream:
        lines = stream.iter_lines()
        for _ in range(12):
            next(lines)
    seen = len(evaluations)
    assert 1 <= seen < 20
    assert wait_until_idle(evaluations) <= seen + 3
    assert call(server, inputs())[0] == "complete"


def test_the_painting_ends_when_it_is_cancelled(server, evaluations):
    page = httpx.get(f"{server}/config").json()
    index = next(function["id"] for function in page["dependencies"] if function["api_name"] == "paint")
    join = {"data": inputs(steps=60), "fn_index": index, "session_hash": "leaver"}
    event = httpx.post(f"{server}/gradio_api/queue/join", json=join).json()["event_id"]
    while len(evaluations) < 4:
        time.sleep(0.01)
    cancel = {"session_hash": "leaver", "fn_index": index, "event_id": event}
    assert httpx.post(f"{server}/gradio_api/cancel", json=cancel).status_code == 200
    seen = len(evaluations)
    assert wait_until_idle(evaluations) <= seen + 2


def test_a_full_queue_says_so(server, evaluations):
    answers = [httpx.post(f"{server}/gradio_api/call/paint", json={"data": inputs(steps=3)}) for _ in range(8)]
    taken = [answer.json()["event_id"] for answer in answers if answer.status_code == 200]
    refused = [answer for answer in answers if answer.status_code != 200]
    assert QUEUE_SIZE <= len(taken) <= QUEUE_SIZE + 2
    assert {answer.status_code for answer in refused} == {503} and "full" in refused[0].json()["detail"]
    for event in taken:
        with httpx.stream("GET", f"{server}/gradio_api/call/paint/{event}", timeout=60) as stream:
            assert "event: complete" in list(stream.iter_lines())


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
    assert wait_until_idle(evaluations) <= seen + 1


def test_the_page_asks_nobody_else(server):
    page = httpx.get(server).text + httpx.get(f"{server}/theme.css").text
    assert "fonts.googleapis" not in page and "cdnjs" not in page
    config = httpx.get(f"{server}/config").json()
    assert config["analytics_enabled"] is False and config["show_error"] is False


# The command


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("--port", "99999"), "--port"),
        (("--queue-size", "0"), "--queue-size"),
        (("--port", "7899", "--device", "banana"), "banana"),
        (("--port", "7899", "--model", "nowhere"), "nowhere"),
    ],
)
def test_wrong_arguments_are_one_line(arguments, message, capsys, monkeypatch):
    pytest.importorskip("gradio")
    monkeypatch.setenv("GRADIO_TEMP_DIR", "")
    assert main(["demo", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_port_that_is_taken_is_one_line(capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert main(["demo", "--port", str(taken.getsockname()[1])]) == 2
    assert "nothing can listen there" in capsys.readouterr().err


def test_without_gradio_the_command_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert main(["demo", "--port", "7899"]) == 2
    assert "diffusers-ccld[demo]" in capsys.readouterr().err


def test_the_space_starts(monkeypatch, tmp_path):
    gradio = pytest.importorskip("gradio")
    yaml = pytest.importorskip("yaml")
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    space = Path(__file__).parents[2] / "examples" / "space"
    header = yaml.safe_load((space / "README.md").read_text().split("---")[1])
    assert header["sdk"] == "gradio" and (space / header["app_file"]).is_file()
    assert f"gradio>={header['sdk_version'].rpartition('.')[0]}" in (space.parents[1] / "setup.cfg").read_text()
    app = runpy.run_path(str(space / header["app_file"]))
    assert isinstance(app["demo"], gradio.Blocks)
    address = app["launch"](app["demo"], app["limits"], block=False)
    try:
        event, (gallery, _, _) = call(address.rstrip("/"), inputs())
        assert event == "complete" and fetch(address.rstrip("/"), gallery[0]["image"]).size == (128, 128)
    finally:
        app["demo"].close(verbose=False)


# A real browser


CHROMIUM = Path("/usr/bin/chromium")
SWITCHES = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    if not CHROMIUM.is_file():
        pytest.skip(f"There is no {CHROMIUM}.")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=str(CHROMIUM), args=list(SWITCHES))
        yield browser
        browser.close()


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
    """The page, open, that has asked nobody else for anything when it is closed."""
    tab = browser.new_page(viewport={"width": 1280, "height": 900})
    asked = []
    tab.on("request", lambda request: asked.append(request.url))
    tab.goto(bundled_server)
    tab.set_default_timeout(60_000)
    tab.get_by_text("Details").click()
    tab.get_by_label("number input for Steps").fill("8")
    tab.get_by_label("number input for Pictures").fill("1")
    yield tab
    tab.close()
    assert asked and all(url.startswith((bundled_server, "data:", "blob:")) for url in asked)


def press(tab):
    tab.locator(".paint-button >> visible=true").click()


def next_picture(tab) -> np.ndarray:
    """Presses the button; the picture that then takes the place of the one in the gallery."""
    before = tab.locator("#gallery img").first.get_attribute("src")
    press(tab)
    tab.wait_for_function("(before) => document.querySelector('#gallery img')?.src !== before", arg=before)
    return shown(tab)


def shown(tab) -> np.ndarray:
    """The picture in the gallery, once it is there."""
    tab.wait_for_function("document.querySelector('#note')?.innerText.includes('Seed')")
    address = tab.locator("#gallery img").first.get_attribute("src")
    return np.asarray(Image.open(io.BytesIO(httpx.get(address).content)))


@pytest.mark.slow
def test_a_person_paints_and_opens_the_link(tab, browser, bundled_server):
    tab.get_by_label("Prompt", exact=True).fill("a rose & a cat, oil on canvas")
    press(tab)
    picture = shown(tab)
    link = tab.locator("#note a")
    assert picture.shape == (128, 128, 3) and picture.std() > 10

    other = browser.new_page()
    other.goto(bundled_server + link.get_attribute("href"))
    assert np.array_equal(shown(other), picture)
    assert other.get_by_label("Prompt", exact=True).input_value() == "a rose & a cat, oil on canvas"
    assert other.locator("#note a").get_attribute("href") == link.get_attribute("href")
    other.close()


@pytest.mark.slow
def test_a_person_paints_like_a_picture_edits_and_inpaints(tab, bundled_server, tmp_path):
    (tmp_path / "red.png").write_bytes(png((128, 128)))
    tab.locator("#details input[type=file]").set_input_files(tmp_path / "red.png")
    tab.wait_for_selector("#details img")
    press(tab)
    shown(tab)
    assert tab.locator("#note a").count() == 0

    tab.get_by_role("tab", name="Edit").click()
    tab.get_by_role("tabpanel").locator("input[type=file]").first.set_input_files(tmp_path / "red.png")
    tab.wait_for_selector("#form img >> visible=true")
    tab.get_by_label("Prompt", exact=True).fill("a seascape, watercolor")
    edited = next_picture(tab)
    assert edited.shape == (128, 128, 3)

    tab.get_by_role("tab", name="Inpaint").click()
    invitation = tab.get_by_text("draw where to paint")
    invitation.wait_for()
    tab.wait_for_timeout(2000)  # the canvas takes no picture before it is ready, and then fits itself to it
    tab.get_by_role("tabpanel").locator("input[type=file]").first.set_input_files(tmp_path / "red.png")
    invitation.wait_for(state="hidden")
    tab.wait_for_timeout(2000)
    box = tab.get_by_role("tabpanel").locator("canvas").first.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    tab.mouse.move(x - 20, y)
    tab.mouse.down()
    tab.mouse.move(x + 20, y, steps=10)
    tab.mouse.up()
    inpainted = next_picture(tab).astype(int)
    redness = inpainted[..., 0] - inpainted[..., 1:].max(axis=-1)
    assert redness[:8].mean() > redness[60:68, 60:68].mean() + 50


@pytest.mark.slow
def test_a_person_cancels_and_leaves(tab, browser, bundled_server, bundled_painter):
    evaluations = []
    hook = bundled_painter._components["unet"].register_forward_pre_hook(
        lambda *_: evaluations.append(time.monotonic())
    )
    try:
        tab.get_by_label("number input for Steps").fill("150")
        tab.get_by_label("number input for Pictures").fill("4")
        tab.get_by_label("Prompt", exact=True).fill("a rose")
        for leave in (lambda: tab.locator("#cancel").click(), lambda: tab.goto("about:blank")):
            begin = len(evaluations)
            press(tab)
            while len(evaluations) < begin + 5:
                tab.wait_for_timeout(20)
            leave()
            tab.wait_for_timeout(1000)
            seen = len(evaluations)
            tab.wait_for_timeout(1500)
            assert begin + 5 <= seen == len(evaluations) < begin + 150
    finally:
        hook.remove()


def test_a_line_of_pixels_is_an_image_prompt_like_any_other():
    """Enlarged before it is cropped it would take gigabytes."""
    request = parse_request("paint", {"image_prompt": png((1, 200_000))}, LIMITS)
    processor = CLOOBImageProcessor(size=32)
    assert processor.preprocess(request.image_prompt)["pixel_values"].shape == (1, 3, 32, 32)


@pytest.mark.parametrize("limits", [Limits(num_inference_steps=1, num_images=1), Limits(num_inference_steps=20)])
def test_the_form_as_it_stands_is_within_the_limits(painter, limits):
    pytest.importorskip("gradio")
    from diffusers_ccld.demo import page as demo

    page = demo.build(painter, limits)
    values = {b.label: getattr(b, "value", None) for b in page.blocks.values() if getattr(b, "label", None)}
    form = {"num_inference_steps": values["Steps"], "num_images": values["Pictures"]}
    parse_request("paint", {"prompt": "a rose", "guidance_scale": values["Guidance"], **form}, limits)


def test_the_form_of_a_distilled_model_is_what_it_was_taught(trainable_folder):
    pytest.importorskip("gradio")
    from diffusers_ccld.demo import page as demo

    pipe = CCLDPipeline.from_pretrained(trainable_folder)
    pipe.register_to_config(default_num_inference_steps=4, max_guidance_scale=2.0)
    painter = Painter(pipe)
    page = demo.build(painter)
    values = {b.label: getattr(b, "value", None) for b in page.blocks.values() if getattr(b, "label", None)}
    assert (values["Steps"], values["Guidance"]) == (4, 2)
