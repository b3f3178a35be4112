"""The form of the page, and the Space."""

import inspect
import runpy
import socket
from pathlib import Path

import pytest
import torch

from diffusers_ccld import CCLDPipeline
from diffusers_ccld.demo.painter import Painter
from diffusers_ccld.demo.requests import Limits, parse_request
from diffusers_ccld.inference.tasks import PIPELINES
from support.demo_calls import call, fetch, inputs
from support.patience import get


@pytest.mark.parametrize("limits", [Limits(num_inference_steps=1, num_images=1), Limits(num_inference_steps=20)])
def test_the_defaults_of_the_form_are_within_the_limits(painter, limits):
    pytest.importorskip("gradio")
    from diffusers_ccld.demo import page as demo

    page = demo.build(painter, limits)
    values = {b.label: getattr(b, "value", None) for b in page.blocks.values() if getattr(b, "label", None)}
    form = {"num_inference_steps": values["Steps"], "num_images": values["Pictures"]}
    parse_request("paint", {"prompt": "a rose", "guidance_scale": values["Guidance"], **form}, limits)


def test_the_form_of_a_distilled_model_has_its_settings(trainable_folder):
    pytest.importorskip("gradio")
    from diffusers_ccld.demo import page as demo

    pipe = CCLDPipeline.from_pretrained(trainable_folder)
    pipe.register_to_config(default_num_inference_steps=4, max_guidance_scale=2.0)
    painter = Painter(pipe)
    page = demo.build(painter)
    values = {b.label: getattr(b, "value", None) for b in page.blocks.values() if getattr(b, "label", None)}
    assert (values["Steps"], values["Guidance"]) == (4, 2) and "Variation" not in values


def test_the_form_begins_with_the_strengths_and_inversion_steps_of_the_pipelines(painter):
    pytest.importorskip("gradio")
    from diffusers_ccld.demo import page as demo

    functions = demo.build(painter).get_api_info()["named_endpoints"]
    for task, pipeline in PIPELINES.items():
        call = pipeline.edit if task == "edit" else pipeline.__call__
        form = {field["parameter_name"]: field["parameter_default"] for field in functions[f"/{task}"]["parameters"]}
        steps = 50 if task == "edit" else painter.steps_of(painter.algorithm)
        strength = inspect.signature(call).parameters.get("strength")
        assert form["num_inference_steps"] == steps
        assert form.get("strength") == (None if strength is None else strength.default)


def test_the_form_of_a_fitted_model_begins_with_its_own_guidance_and_variation(trainable_folder):
    pytest.importorskip("gradio")
    from diffusers_ccld.demo import page as demo

    pipe = CCLDPipeline.from_pretrained(trainable_folder)
    pipe.text_encoder.set_residual_factor(torch.eye(512))
    pipe.register_to_config(default_guidance_scale=1.75, default_variation=0.3)
    page = demo.build(Painter(pipe))
    sliders = {b.label: b for b in page.blocks.values() if getattr(b, "label", None)}
    for label, value in (("Guidance", 1.75), ("Variation", 0.3)):
        assert sliders[label].value == value and round(value / sliders[label].step, 6).is_integer()


def test_the_page_is_served_by_ipv6(painter, monkeypatch, tmp_path):
    pytest.importorskip("gradio")
    from diffusers_ccld.demo import page as demo

    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("This machine has no IPv6.")
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    page = demo.build(painter)
    address = demo.launch(page, host="::1", block=False)
    try:
        assert address.startswith("http://[::1]:") and get(address).status_code == 200
    finally:
        page.close(verbose=False)


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
        event, (gallery, *_) = call(address.rstrip("/"), inputs(variation=0.3))
        assert event == "complete" and fetch(address.rstrip("/"), gallery[0]["image"]).size == (128, 128)
    finally:
        app["demo"].close(verbose=False)
