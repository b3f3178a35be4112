import io
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from diffusers.pipelines import pipeline_utils
from PIL import Image
from scipy.spatial import geometric_slerp
from tqdm.auto import tqdm

import diffusers_ccld.inference.interpolation as interpolation
from diffusers_ccld import CCLDPipeline, CCLDScheduler
from diffusers_ccld.evaluation.interpolation_evenness import JOURNEYS, bundled_pipeline, measure_evenness
from diffusers_ccld.inference.even_frames import Frames
from diffusers_ccld.inference.interpolation import interpolate, picture_distance, prepare_path, sample_path, slerp
from diffusers_ccld.inference.sampling import SamplingInterruptedError


@pytest.fixture(scope="module")
def pipe(pipeline_folder):
    """The small pipeline, loaded once."""
    pipe = CCLDPipeline.from_pretrained(pipeline_folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def unit_vectors(*shape):
    return torch.nn.functional.normalize(torch.randn(*shape), dim=-1)


def test_slerp_is_the_arc_of_another_implementation():
    start, end = unit_vectors(2, 16)
    fractions = torch.linspace(0, 1, 9)
    ours = slerp(start.double().expand(9, -1), end.double().expand(9, -1), fractions)
    start, end = (vector.double().numpy() / np.linalg.norm(vector.double().numpy()) for vector in (start, end))
    np.testing.assert_allclose(ours.numpy(), geometric_slerp(start, end, fractions.double().numpy()), atol=1e-7)


def test_slerp_ends_where_its_ends_are_and_works_on_batches():
    start, end = torch.randn(5, 3, 64), torch.randn(5, 3, 64)
    assert torch.equal(slerp(start, end, 0.0), start) and torch.equal(slerp(start, end, 1.0), end)
    fractions = torch.rand(5, 3)
    together = slerp(start, end, fractions)
    assert torch.equal(together[2, 1], slerp(start[2, 1], end[2, 1], fractions[2, 1].item()))
    torch.testing.assert_close(slerp(end, start, 1 - fractions), together)


def test_slerp_has_a_constant_angular_speed_and_interpolates_lengths():
    start, end = 2 * unit_vectors(100), 5 * unit_vectors(100)
    points = slerp(start.expand(11, -1), end.expand(11, -1), torch.linspace(0, 1, 11)).double()
    torch.testing.assert_close(points.norm(dim=1), torch.linspace(2, 5, 11).double(), rtol=1e-6, atol=0)
    angles = [torch.acos(torch.cosine_similarity(*pair, dim=0)).item() for pair in pairwise(points)]
    np.testing.assert_allclose(angles, angles[0], rtol=1e-5)


@pytest.mark.parametrize("angle", [0.0, 1e-12, 1e-8, 1e-4, 3.1])
def test_slerp_of_nearly_parallel_and_nearly_opposite_vectors(angle):
    start = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
    end = torch.tensor([math.cos(angle), math.sin(angle), 0.0], dtype=torch.float64)
    middle = slerp(start, end, 0.25)
    expected = torch.tensor([math.cos(angle / 4), math.sin(angle / 4), 0.0], dtype=torch.float64)
    torch.testing.assert_close(middle, expected, rtol=1e-9, atol=1e-20)


def test_slerp_rejects_vectors_without_an_arc():
    vector = unit_vectors(8)
    with pytest.raises(ValueError, match="Opposite vectors"):
        slerp(vector, -2 * vector, 0.5)
    for wrong in (torch.zeros(8), torch.full((8,), math.nan), torch.full((8,), math.inf)):
        with pytest.raises(ValueError, match="no direction"):
            slerp(vector, wrong, 0.5)


def test_slerp_keeps_the_type_but_computes_in_double_precision():
    start, end = unit_vectors(2, 512).half()
    middle = slerp(start, end, 0.5)
    assert middle.dtype == torch.float16
    assert torch.equal(middle, slerp(start.double(), end.double(), 0.5).half())


def test_a_path_leads_through_its_waypoints_and_back(pipe):
    embeds = 3 * unit_vectors(pipe.unet.config.cross_attention_dim)
    path = prepare_path(
        pipe, [("a fox", 2.0), embeds, ("snow", 4.0)], seeds=[1, 2, 3], loop=True, negative_prompt="fog"
    )
    assert path.num_legs == 3 and path.canonical(3.0) == 0.0
    for position, weight in ((0.0, 2.0), (0.5, 2.5), (1.0, 3.0), (2.75, 2.5)):
        conditions, noise = path.at(position)
        assert [w for _, w in conditions] == pytest.approx([weight, 1 - weight])
        assert 0.9 < noise.std() < 1.1 and noise.shape == path.noise[:1].shape
    assert torch.equal(path.at(1.0)[0][0][0], embeds) and torch.equal(path.at(2.0)[1][0], path.noise[2])


def test_there_and_back_shows_the_same_pictures(pipe):
    path = prepare_path(pipe, ["a fox", "snow"], seeds=[1, 2], loop=True, height=64, width=64)
    there, back = path.at(0.25), path.at(1.75)
    torch.testing.assert_close(there[0][0][0], back[0][0][0])
    torch.testing.assert_close(there[1], back[1])
    assert path.canonical(1.75) == 0.25
    pictures = {}
    frames = sample_path(pipe, path, 6, num_inference_steps=1, max_pictures=6, pictures=pictures)
    assert len(frames.positions) == 7 and len(pictures) == 4


@pytest.mark.parametrize("algorithm", ["plms", "ddpm"])
def test_waypoints_are_the_pictures_of_the_pipeline(pipe, monkeypatch, algorithm):
    scheduler = CCLDScheduler.from_config(pipe.scheduler.config, algorithm_type=algorithm)
    monkeypatch.setattr(pipe, "scheduler", scheduler)
    picture = Image.effect_noise((50, 40), 90).convert("RGB")
    options = {"num_inference_steps": 2, "height": 64, "width": 64}
    waypoints = [("a red fox", 2.5), picture]
    seeds = [4, 5] if algorithm == "plms" else 4
    frames = interpolate(pipe, waypoints, 3, seeds=seeds, batch_size=1, max_pictures=3, **options)
    assert len(frames) == 3
    for frame, condition, seed in ((frames[0], ("a red fox", 2.5), 4), (frames[2], (picture, 3.0), np.max(seeds))):
        generator = [torch.Generator().manual_seed(int(seed))]
        assert frame == pipe(conditions=[condition], generator=generator, **options).images[0]


def test_a_negative_prompt_is_that_of_the_pipeline(pipe):
    options = {"num_inference_steps": 2, "height": 64, "width": 64, "negative_prompt": "fog", "guidance_scale": 2.0}
    frame = interpolate(pipe, ["a fox", "snow"], 2, seeds=3, batch_size=1, max_pictures=2, **options)[1]
    expected = pipe("snow", generator=[torch.Generator().manual_seed(3)], **options).images[0]
    assert picture_distance(frame, expected) < 0.5


@pytest.mark.parametrize(
    "waypoints, options, message",
    [
        (["a fox"], {}, "two waypoints"),
        ([], {}, "two waypoints"),
        (["a fox", "snow"], {"seeds": [1, 2, 3]}, "3 seeds"),
        (["a fox", "snow"], {"seeds": -1}, "whole numbers"),
        (["a fox", "snow"], {"seeds": 2**64}, "whole numbers"),
        (["a fox", "a fox"], {}, "nothing in between"),
        ([("a fox", 0.0), ("snow", 0.0)], {}, "nothing in between"),
        (["a fox", ("snow", math.inf)], {}, "finite"),
        (["a fox", torch.zeros(3)], {}, "shape"),
        (["a fox", "snow", "fog"], {"num_frames": 2}, "fewer than the 3 waypoints"),
        (["a fox", "snow"], {"max_pictures": 5}, "from 5 pictures"),
        (["a fox", "snow"], {"batch_size": 0}, "at least 1"),
        (["a fox", "snow"], {"height": 100}, "multiples of 64"),
        (["a fox", "snow"], {"guidance_scale": math.nan}, "finite"),
    ],
)
def test_wrong_input_is_rejected_before_any_work(pipe, monkeypatch, waypoints, options, message):
    monkeypatch.setattr(interpolation, "sample_at", pytest.fail)
    with pytest.raises(ValueError, match=message):
        interpolate(pipe, waypoints, **options)


def test_an_interruption_leaves_no_unfinished_picture(pipe, monkeypatch):
    scale = pipe.scheduler.scale_model_input

    def interrupting(*arguments):
        pipe._interrupt = True
        return scale(*arguments)

    pictures = {}
    path = prepare_path(pipe, ["a fox", "snow"])
    with monkeypatch.context() as context:
        context.setattr(pipe.scheduler, "scale_model_input", interrupting)
        with pytest.raises(SamplingInterruptedError):
            sample_path(pipe, path, 2, 2, pictures=pictures)
    assert not pictures


def test_anything_that_is_not_a_waypoint_is_rejected(pipe):
    with pytest.raises(TypeError, match="42"):
        interpolate(pipe, ["a fox", 42])


def test_opposite_waypoints_are_rejected(pipe):
    embeds = unit_vectors(pipe.unet.config.cross_attention_dim)
    with pytest.raises(ValueError, match="Opposite vectors"):
        interpolate(pipe, [embeds, -embeds])


def test_a_path_shows_one_bar_of_all_its_pictures(pipe, monkeypatch):
    bars = []

    class Recorded(tqdm):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options, file=io.StringIO())
            if not self.disable:
                bars.append(self)
                assert self.total == 9 and self.n == 0  # at most

    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    for module in (interpolation, pipeline_utils):
        monkeypatch.setattr(module, "tqdm", Recorded)
    monkeypatch.setattr(pipe, "_progress_bar_config", {"disable": False}, raising=False)
    pictures = {}
    path = prepare_path(pipe, ["a fox", "snow"], seeds=[1, 2])
    sample_path(pipe, path, 4, num_inference_steps=1, batch_size=2, max_pictures=9, pictures=pictures)
    (bar,) = bars
    assert bar.n == bar.total == len(pictures) >= 4 and bar.unit == "picture"
    assert pipe._progress_bar_config == {"disable": False}  # as it was


def test_frames_of_the_bundled_model_do_not_leap():
    """Between two subjects, one of the steps at even angles is much longer than the others."""
    pipe = bundled_pipeline("iplms")
    waypoints, pictures = ["a cat on a rug, oil on canvas", "a city skyline at night, oil on canvas"], {}
    path = prepare_path(pipe, waypoints, seeds=1, guidance_scale=3.0, variation=0)
    frames = sample_path(pipe, path, 9, num_inference_steps=10, pictures=pictures)
    images = [pictures[position] for position in frames.positions]
    distances = [picture_distance(*pair) for pair in pairwise(images)]
    assert len(images) == 9 and len(pictures) <= 36
    assert min(distances) > 0 and max(distances) <= 3 * np.median(distances)
    assert Frames(frames.positions, distances).unevenness == frames.unevenness
    plain = sample_path(pipe, path, 9, num_inference_steps=10, max_pictures=9, pictures=pictures)
    assert frames.unevenness < plain.unevenness


@pytest.mark.slow
@pytest.mark.parametrize("journey", JOURNEYS, ids=lambda journey: journey.name)
def test_no_step_is_three_times_the_median_of_its_journey(journey):
    measured = measure_evenness(bundled_pipeline("plms"), journey, num_frames=24, num_inference_steps=10)
    assert measured.even <= 3 and measured.even_embeds <= 3
    assert measured.num_pictures <= 96


def test_guidance_beyond_a_distilled_model_is_rejected_before_any_picture(trainable_folder):
    pipe = CCLDPipeline.from_pretrained(trainable_folder)
    pipe.register_to_config(max_guidance_scale=4.0)
    with pytest.raises(ValueError, match="up to 4; 9 is too large"):
        prepare_path(pipe, [("a cat", 1.0), ("a cat", 9.0)])
    prepare_path(pipe, [("a cat", 1.0), ("a cat", 9.0)], negative_prompt="fog")  # combined by the formula
