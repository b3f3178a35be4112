"""Progress, files, previews and settings of the page, without a browser."""

import asyncio
import contextlib
import json
import re
import shlex
from pathlib import Path
from urllib.parse import parse_qsl

import numpy as np
import pytest
from PIL import Image

from diffusers_ccld.cli.command_lines import command_of, frame_of
from diffusers_ccld.cli.main import main
from diffusers_ccld.demo.links import parse_link
from diffusers_ccld.demo.model import DemoModel
from diffusers_ccld.demo.requests import Limits, missing_upload, parse_request, request_of_record
from diffusers_ccld.demo.results import link_html, progress_html, save_pictures
from diffusers_ccld.inference.provenance import read_provenance, save_picture
from diffusers_ccld.inference.tasks import Progress
from diffusers_ccld.utils.words import vocabulary_of
from support.demo_calls import LIMITS, META, png
from support.mutated_records import RECORDS, mutated_records

ROSE = {"prompt": "A rose & a cat", "seed": 3, "num_images": 2, "num_inference_steps": 4}


def painted(painter, task="paint", **values):
    request = parse_request(task, ROSE | values, LIMITS)
    return request, painter.paint(request, lambda progress: None)


def test_files_are_named_after_prompt_and_seed(painter, tmp_path):
    request, pictures = painted(painter, guidance_from=0.2)
    files = save_pictures(request, pictures, tmp_path)
    assert [(path.removeprefix(f"{tmp_path}/"), caption) for path, caption in files] == [
        ("a-rose-a-cat-3.png", "seed 3"),
        ("a-rose-a-cat-4.png", "seed 4"),
    ]
    record = read_provenance(files[1][0])
    assert (record["seed"], record["guidance_interval"], record["steps"]) == (4, [0.2, 1], 4)
    again = request_of_record(record, Limits())
    assert (again.prompt, again.seed, again.interval) == (request.prompt, 4, (0.2, 1))
    repeated = np.asarray(painter.paint(again, lambda progress: None)[0], int)
    assert np.abs(repeated - np.asarray(pictures[1], int)).max() <= 1


def test_a_long_name_ends_in_one_hyphen(tmp_path):
    picture = Image.new("RGB", (8, 8))
    request = parse_request("paint", {"prompt": "a " * 40, "seed": 3}, LIMITS)
    ((path, _),) = save_pictures(request, [picture], tmp_path)
    assert path.endswith("-a-3.png")


def test_a_link_says_everything(painter):
    request = parse_request("paint", ROSE | {"guidance_from": 0.1, "guidance_to": 0.9}, LIMITS)
    query = dict(parse_qsl(request.link()[1:], keep_blank_values=True))
    assert parse_link(query, LIMITS).request == request
    for task, changes in (("between", {"position": 0.35}), ("animate", {"num_frames": 5})):
        between = parse_request(task, ROSE | {"second_prompt": "snow", "num_images": 1} | changes, LIMITS)
        assert parse_link(dict(parse_qsl(between.link()[1:], keep_blank_values=True)), LIMITS).request == between
    with pytest.raises(ValueError, match="task must be"):
        parse_link(query | {"task": "edit"}, LIMITS)
    for added in ("guidance_from", "guidance_to", "variation"):
        query.pop(added)  # an older link
    assert parse_link(query, LIMITS).request.interval is None
    assert "128 × 96 pixels" in link_html(request, (128, 96)) and "href" in link_html(request, (128, 96))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"conditions": [["a", 2.0], ["b", 1.0]]}, "from 2 prompts; this page takes one"),
        ({"conditions": [["a.png", 2.0], ["b.png", 1.0]], "images": ["a.png", "b.png"]}, "had 2 image prompts"),
        ({"conditions": [["a", 3.0], ["IMAGE", -1.0]], "images": ["IMAGE"]}, "negative weight"),
        (
            {"conditions": [["s.safetensors", 2.0]], "embeddings": ["s.safetensors"]},
            "s.safetensors, an embedding",
        ),
        ({"cloob_guidance": 5.0}, "guidance by CLOOB alone"),
        ({"parallel_guidance": 0.5}, "a share of the parallel guidance"),
        ({"eta": 1.0}, "fresh noise"),
        ({"algorithm": "UniPC"}, "the algorithm UniPC"),
        ({"steps": 1000}, "steps must be a whole number from 1 to 60, not 1000.$"),
        ({"seed": 2**53 + 1}, "seed must be a whole number from 0 to 4294967295.$"),
        ({"conditions": 5}, "its conditions is 5"),
    ],
)
def test_settings_that_the_form_does_not_have_are_named(changes, message):
    record = {"conditions": [["a", 2.0]], "seed": 5, "steps": 7, "algorithm": "the model's own"}
    assert request_of_record(record, LIMITS).prompt == "a"
    with pytest.raises(ValueError, match=message):
        request_of_record(record | changes, LIMITS)


def test_no_record_ends_in_another_error():
    filled = 0
    for _, record in mutated_records():
        with contextlib.suppress(ValueError):
            assert request_of_record(record, Limits()).prompt or missing_upload(record, Limits())
            filled += 1
    assert filled > 300


def test_pictures_without_a_prompt_fill_the_rest_of_the_form():
    record = {"conditions": [["IMAGE", 4.0]], "images": ["IMAGE"], "seed": 5, "steps": 7}
    request = request_of_record(record, LIMITS)
    assert (request.prompt, request.guidance_scale, request.seed) == ("", 4.0, 5)
    assert (
        missing_upload(record, LIMITS)
        == "The picture had an image prompt, which its file does not hold: give it, too."
    )
    record = {"conditions": [], "seed": 5, "steps": 7}
    assert request_of_record(record, LIMITS).prompt == "" and "without a prompt" in missing_upload(record, LIMITS)
    assert request_of_record(RECORDS["grid"], LIMITS).num_images == LIMITS.num_images
    assert missing_upload(RECORDS["grid"], LIMITS).endswith("shows 2 of 4 pictures; this page paints the first 2.")
    best = {"conditions": [["a cat", 2.0]], "seed": 0, "seeds": [1, 0], "num_images": 3, "steps": 7}
    assert missing_upload(best, Limits()) == "The file shows 2 of 3 pictures; this page paints all 3."
    with pytest.raises(ValueError, match="Write a prompt"):
        parse_request("paint", {"seed": 5}, LIMITS)


def test_settings_of_the_shell_fill_the_form():
    record = {"conditions": [["a", 2.0]], "seed": 5, "steps": 7, "algorithm": "ddim", "negative_prompt": None}
    request = request_of_record(record, LIMITS)
    assert (request.prompt, request.guidance_scale, request.seed, request.num_inference_steps) == ("a", 2, 5, 7)


@pytest.mark.parametrize(
    "values, message",
    [
        ({"second_prompt": ""}, "two prompts"),
        ({"second_prompt": "b", "position": 2}, "position must be"),
        ({"second_prompt": "b", "num_frames": 1000}, "number of frames"),
        ({"second_prompt": "b", "guidance_from": 0.9, "guidance_to": 0.1}, "must begin before"),
    ],
)
def test_requests_between_prompts_are_checked(values, message):
    with pytest.raises(ValueError, match=message):
        parse_request("between", ROSE | values, LIMITS)


def test_pictures_between_two_prompts(painter, tmp_path):
    values = {"second_prompt": "snow", "num_images": 1}
    begin, middle, end = (painted(painter, "between", position=x, **values)[1][0] for x in (0, 0.5, 1))
    assert not np.array_equal(begin, middle) and not np.array_equal(middle, end)
    request, frames = painted(painter, "animate", num_frames=5, **values)
    assert np.abs(np.asarray(frames[0], int) - np.asarray(begin, int)).max() <= 1
    assert np.abs(np.asarray(frames[4], int) - np.asarray(end, int)).max() <= 1
    ((path, caption),) = save_pictures(request, frames, tmp_path)
    assert path.endswith("a-rose-a-cat-to-snow-3.webp") and Image.open(path).n_frames == 5 and "5 frames" in caption


def test_a_picture_between_two_prompts_is_painted_again_from_its_record(painter, trainable_folder, tmp_path):
    values = {"second_prompt": "snow", "position": 0.35, "guidance_scale": 2.5, "guidance_to": 0.9, "num_images": 1}
    values |= {"negative_prompt": "fog", "algorithm": "ddim"}
    request, pictures = painted(painter, "between", **values)
    ((path, _),) = save_pictures(request, pictures, tmp_path)
    record = read_provenance(path)
    assert record["waypoints"] == [["A rose & a cat", 2.5], ["snow", 2.5]] and record["position"] == 0.35
    again = request_of_record(record, LIMITS)
    assert again == request and np.array_equal(painter.paint(again, lambda progress: None)[0], pictures[0])

    command = shlex.split(command_of(record))[1:]
    assert main([*command, "--model", str(trainable_folder), "--dtype", "fp32", "-o", str(tmp_path / "path")]) == 0
    frame = Image.open(tmp_path / "path" / f"{frame_of(record):05d}.png")
    assert np.abs(np.asarray(frame, int) - np.asarray(pictures[0], int)).max() <= 1
    of_shell = json.loads(frame.text["ccld"])
    assert request_of_record(of_shell, LIMITS) == request


def test_a_path_that_the_form_cannot_say_is_refused():
    for changes in (
        {"waypoints": [["a", 2.0], ["b", 3.0]]},
        {"waypoints": [["a", 2.0], ["@b.png", 2.0, "0f"]]},
        {"waypoints": [["a", 2.0], ["b", 2.0], ["c", 2.0]]},
        {"seeds": [1, 2]},
    ):
        record = {"waypoints": [["a", 2.0], ["b", 2.0]], "seeds": [1], "steps": 4, "position": 0.5}
        assert request_of_record(record, LIMITS).second_prompt == "b"
        with pytest.raises(ValueError, match="two prompts of one weight and one seed"):
            request_of_record(record | changes, LIMITS)


def test_every_frame_of_an_animation_has_its_record(painter):
    request, frames = painted(painter, "animate", num_frames=3, second_prompt="snow", num_images=1)
    records = [json.loads(frame.info["ccld"]) for frame in frames]
    assert [record["position"] for record in records] == [0, 0.5, 1] and request.positions == [0, 0.5, 1]
    assert {(record["runtime"], record["dtype"]) for record in records} == {("torch", "fp32")}


def test_an_animation_is_painted_again_by_the_command_in_it(painter, trainable_folder, tmp_path, capsys):
    request, frames = painted(painter, "animate", num_frames=3, second_prompt="snow", num_images=1)
    ((path, _),) = save_pictures(request, frames, tmp_path)
    assert main(["inspect", path]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("kind: animation of 3 frames\n")
    command = shlex.split(printed.splitlines()[-1].removeprefix("command: "))[1:]
    assert main([*command, "--model", str(trainable_folder)]) == 0
    folder = Path(path).with_suffix("")
    for number, frame in enumerate(frames):
        again = np.asarray(Image.open(folder / f"{number:05d}.png"), int)
        assert np.abs(again - np.asarray(frame, int)).max() <= 1


def test_progress_of_an_animation_is_one_bar(painter):
    request = parse_request("animate", ROSE | {"second_prompt": "snow", "num_frames": 6, "num_images": 1}, LIMITS)
    seen = []
    painter.paint(request, seen.append)
    shares = [progress.share for progress in seen]
    assert (
        shares == sorted(shares) and shares[-1] == 1 and len(shares) == 8 and seen[-1].step == seen[-1].num_steps == 8
    )


def test_progress_shows_steps_time_and_pictures(painter):
    html = progress_html(Progress(0.3, 3, 10), 4.2, [Image.new("RGB", (8, 8))])
    assert "Step 3 of 10, about 4 s left" in html and "width: 30.0%" in html and "data:image/jpeg" in html
    assert "Starting" in progress_html(None, 0, [])


def updates_of(painter, task="paint", **values):
    """All that the page gets while a form is painted."""
    pytest.importorskip("gradio")
    from diffusers_ccld.demo.page import Studio

    async def collect():
        async with contextlib.aclosing(Studio(painter, LIMITS).run(task, **values)) as updates:
            return [update async for update in updates]

    return asyncio.run(collect())


def test_previews_arrive_and_pictures_stay_until_the_end(painter, evaluations, monkeypatch):
    from diffusers_ccld.demo import actions

    monkeypatch.setattr(actions, "PREVIEW_SHARE", 1)
    *unfinished, (files, seed, note, progress) = updates_of(painter, **ROSE | {"num_inference_steps": 20})
    previews = dict.fromkeys(re.findall(r"base64,[^\"]*", "".join(update[3] for update in unfinished)))
    assert all(isinstance(update[0], dict) and "value" not in update[0] for update in unfinished)  # unchanged
    assert 4 <= len(previews) <= 2 * (20 * 0.05 / actions.SECONDS_BETWEEN_PREVIEWS + 2)  # two pictures each
    assert [caption for _, caption in files] == ["seed 3", "seed 4"]
    assert (seed, progress) == (3, "") and "Seed 3–4" in note


@pytest.mark.parametrize(
    "task, values, unknown",
    [
        ("paint", {"prompt": "a cat"}, None),
        ("paint", {"prompt": "a red cat", "negative_prompt": "fog, <b>Dragons</b>"}, "red, dragons"),
        ("between", {"prompt": "a cat", "second_prompt": "a red cat"}, "red"),
        ("paint", {"prompt": "a cats"}, "cats (did you mean cat?)"),
    ],
)
def test_words_that_the_model_does_not_know_are_said_with_its_pictures(painter, monkeypatch, task, values, unknown):
    words = "a", "cat", "fog"
    monkeypatch.setattr(painter, "vocabulary", {f"{word}</w>" for word in words})
    note = updates_of(painter, task, num_inference_steps=1, seed=3, **values)[-1][2]
    assert "Seed 3" in note and ("does not know" in note) == (unknown is not None)
    assert unknown is None or f"does not know: {unknown}<" in note


def test_the_painter_has_the_vocabulary_of_its_folder(painter, trainable_folder):
    assert painter.vocabulary and painter.vocabulary == vocabulary_of(trainable_folder)


def test_settings_are_read_from_a_picture_of_ours(painter, tmp_path, monkeypatch):
    gradio = pytest.importorskip("gradio")
    from diffusers_ccld.demo.actions import FORM_OF_LINK, FORM_OF_TABS, Studio

    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    request, pictures = painted(painter)
    (path, _), _ = save_pictures(request, pictures, tmp_path)
    studio = Studio(painter, LIMITS)
    names = [*FORM_OF_LINK, *(name if task == "between" else f"{task} {name}" for task, name in FORM_OF_TABS)]
    names += ["image", "share", "tab", "notice"]
    form = dict(zip(names, studio.read_settings({"path": path, "meta": META}), strict=True))
    assert form["notice"] == "" and form["tab"].selected == "paint" and form["image"] is None
    assert (form["prompt"], form["seed"], form["random_seed"]) == ("A rose & a cat", 3, False)
    (tmp_path / "other.png").write_bytes(png())
    unusable = "The given picture&#x27;s settings cannot be used. "
    for path, reason in (
        (tmp_path / "other.png", "The picture has no record"),
        ("/etc/passwd", "A picture must be an uploaded file"),
    ):
        *fields, notice = studio.read_settings({"path": str(path)})
        assert f'role="alert">{unusable}{reason}' in notice and all(field == gradio.skip() for field in fields)
    task, values = "between", {"second_prompt": "snow", "position": 0.25, "num_images": 1}
    ((path, _),) = save_pictures(*painted(painter, task, **values), tmp_path)
    form = dict(zip(names, studio.read_settings({"path": path, "meta": META})))
    assert (form["prompt"], form["second_prompt"], form["position"]) == ("A rose & a cat", "snow", 0.25)
    assert form["tab"].selected == "between" and form["notice"] == "" and isinstance(form["edit strength"], dict)
    request, pictures = painted(painter, "edit", picture=png(), strength=0.6, num_images=1)
    ((path, _),) = save_pictures(request, pictures, tmp_path)
    form = dict(zip(names, studio.read_settings({"path": path, "meta": META})))
    assert (form["edit strength"], form["edit num_inference_steps"]) == (0.6, 4)
    assert form["tab"].selected == "edit" and "began with another" in form["notice"]
    request, pictures = painted(painter, image_prompt=png(), image_prompt_weight=0.25, num_images=1)
    ((path, _),) = save_pictures(request, pictures, tmp_path)
    form = dict(zip(names, studio.read_settings({"path": path, "meta": META})))
    assert "had an image prompt" in form["notice"] and form["share"] == 0.25
    assert "'A rose & a cat:2.25' --image IMAGE:0.75 " in command_of(read_provenance(path))
    save_picture(pictures[0], tmp_path / "wrong.png", {"conditions": [["a", 2.0]], "seed": 2**40})
    *_, notice = studio.read_settings({"path": str(tmp_path / "wrong.png")})
    assert f"{unusable}The seed must be a whole number from 0 to 4294967295, not {2**40}." in notice
    record = RECORDS["web"] | {"size": [256, 192], "timestep_schedule": "log"}
    save_picture(pictures[0], tmp_path / "web.png", record)
    form = dict(zip(names, studio.read_settings({"path": str(tmp_path / "web.png"), "meta": META}), strict=True))
    assert (form["prompt"], form["guidance_scale"], form["share"]) == ("a cat", 4.0, 0.25)
    for sentence in ("256 × 192 pixels, and this page paints 32 × 32", "schedule log", "had an image prompt"):
        assert sentence in form["notice"]
    ((path, _),) = save_pictures(*painted(painter, "animate", num_frames=3, **values), tmp_path)
    form = dict(zip(names, studio.read_settings({"path": path, "meta": META}), strict=True))
    assert (form["second_prompt"], form["animate num_frames"], form["tab"].selected) == ("snow", 3, "between")


def test_the_api_names_its_outputs_and_shows_no_docstrings(painter):
    pytest.importorskip("gradio")
    from diffusers_ccld.demo import page as demo

    functions = demo.build(painter, LIMITS).get_api_info()["named_endpoints"]
    assert functions.keys() == {"/paint", "/image_to_image", "/edit", "/inpaint", "/between", "/animate"}
    for function in functions.values():
        labels = [output["label"] for output in function["returns"]]
        assert labels[:4] == ["Pictures", "Seed", "Link", "Progress"]
        assert "Gradio" not in function["description"] and function["description"].endswith(".")


def test_chips_and_examples_are_words_that_the_model_knows():
    from diffusers_ccld.demo.suggestions import chips_html, examples_html, vocabulary
    from diffusers_ccld.inference.loading import default_model
    from diffusers_ccld.utils.words import unknown_words

    model = DemoModel.of(default_model())
    shown = examples_html(model.examples)
    texts = [*re.findall(r'data-text="([^"]*)"', chips_html()), *re.findall(r'data-prompt="([^"]*)"', shown)]
    assert len(texts) == 12 + 8 + 6 + 6 and unknown_words(" ".join(texts), vocabulary_of(default_model())) == []
    assert shown.count("data:image/jpeg") == len(model.examples) == 6 and "a cat" in vocabulary(model)
