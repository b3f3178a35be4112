import diffusers
import numpy as np
import pytest
import torch
from diffusers import (
    AutoPipelineForImage2Image,
    AutoPipelineForInpainting,
    DDIMScheduler,
    EulerDiscreteScheduler,
    PNDMScheduler,
    VQModel,
)
from PIL import Image, ImageDraw

from diffusers_ccld import CCLDImg2ImgPipeline, CCLDInpaintPipeline, CCLDPipeline, CCLDScheduler
from diffusers_ccld.pipelines.calls import SamplingCall
from diffusers_ccld.pipelines.timesteps import set_start
from diffusers_ccld.schedulers.noise_schedule import (
    inversion_times,
    t_to_alpha_sigma,
    t_to_timestep,
    timestep_to_t,
)
from support import original_files

EMBED = original_files.inputs("e2e.embed.0", (1, 512))
FEW = {"num_inference_steps": 4, "output_type": "latent"}


@pytest.fixture(scope="module")
def picture():
    image = Image.new("RGB", (64, 64), "orange")
    ImageDraw.Draw(image).ellipse((16, 16, 48, 48), fill="navy")
    return image


@pytest.fixture
def img2img(pipe):
    pipe = CCLDImg2ImgPipeline.from_pipe(pipe)
    pipe.scheduler = CCLDScheduler(algorithm_type="ddim")
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def inpaint(img2img):
    pipe = CCLDInpaintPipeline.from_pipe(img2img)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


# Loading


@pytest.mark.parametrize(
    "auto, expected",
    [(AutoPipelineForImage2Image, CCLDImg2ImgPipeline), (AutoPipelineForInpainting, CCLDInpaintPipeline)],
)
def test_auto_pipelines_find_the_task(auto, expected, pipeline_folder, pipe):
    assert type(auto.from_pretrained(pipeline_folder)) is expected
    assert type(auto.from_pipe(pipe)) is expected


def test_pipelines_share_their_components(pipe, img2img, inpaint):
    assert inpaint.unet is img2img.unet is pipe.unet
    back = CCLDPipeline.from_pipe(inpaint)
    assert type(back) is CCLDPipeline and back.vae is pipe.vae


# Image to image


@pytest.mark.parametrize("algorithm", ["plms", "iplms", "ddim"])
@pytest.mark.parametrize("num_steps", [15, 50])
def test_image_to_image_begins_where_the_original_does(num_steps, algorithm):
    scheduler = CCLDScheduler(algorithm_type=algorithm)
    timesteps = set_start(scheduler, {"num_inference_steps": num_steps}, 0.6)
    steps = original_files.reference("samplers")[f"img2img/{num_steps}/steps"]
    assert scheduler.num_inference_steps == len(steps)
    np.testing.assert_allclose(timestep_to_t(timesteps[0].item()), steps[0], atol=1e-6)


def test_the_weaker_the_closer(img2img, picture):
    original = img2img.encode_latents(img2img.prepare_image(picture))
    distances = []
    for strength in (0.2, 0.5, 0.9):
        result = img2img("a fox", picture, strength, num_inference_steps=10, output_type="latent", generator=seeded())
        distances.append((result.images - original).norm().item())
    assert distances == sorted(distances)


def test_full_strength_is_text_to_image_from_a_noised_picture(img2img, pipe, picture):
    """The first time is just below 1, where hardly anything of the picture is left."""
    pipe.scheduler = CCLDScheduler(algorithm_type="ddim")
    expected = pipe("a fox", height=64, width=64, generator=seeded(), **FEW).images
    result = img2img("a fox", picture, strength=1.0, generator=seeded(), **FEW).images
    assert original_files.relative_error(result, expected) < 0.1


def test_any_kind_of_picture_is_taken(img2img, picture):
    array = np.asarray(picture, dtype=np.float32) / 255
    expected = img2img("a fox", picture, generator=seeded(), **FEW).images
    for image in (
        array,
        array[None],
        torch.from_numpy(array).permute(2, 0, 1),
        [picture],
        [array[None]],
        torch.from_numpy(array).permute(2, 0, 1)[None],
        picture.convert("RGBA"),
    ):
        result = img2img("a fox", image, generator=seeded(), **FEW).images
        torch.testing.assert_close(result, expected, atol=1e-3, rtol=1e-3)
    assert img2img.prepare_image(Image.new("P", (200, 130))).shape == (1, 3, 128, 192)
    assert img2img.prepare_image(picture, 128, 64).shape == (1, 3, 128, 64)


def test_batches_of_pictures_and_prompts(img2img, picture):
    other = Image.new("RGB", (64, 64), "green")
    generators = [seeded(i) for i in range(2)]
    both = img2img("a fox", [picture, other], generator=generators, **FEW).images
    alone = img2img("a fox", other, generator=[seeded(1)], **FEW).images
    torch.testing.assert_close(both[1:], alone, atol=1e-3, rtol=1e-3)
    assert len(img2img(["a", "b"], picture, num_images_per_prompt=2, **FEW).images) == 4
    assert len(img2img(["a", "b"], [picture, other], num_images_per_prompt=2, **FEW).images) == 4
    images = img2img("a fox", picture, num_inference_steps=2).images
    assert images[0].size == (64, 64)


@pytest.mark.parametrize("scheduler", [DDIMScheduler, EulerDiscreteScheduler])
def test_stock_schedulers_begin_in_the_middle(img2img, picture, scheduler):
    img2img.scheduler = scheduler.from_config(img2img.scheduler.config)
    timesteps = set_start(img2img.own_scheduler(), {"num_inference_steps": 20}, 0.5)
    assert len(timesteps) == 10 and timestep_to_t(timesteps[0]) <= 0.5
    result = img2img("a fox", picture, strength=0.5, num_inference_steps=20, output_type="latent").images
    assert torch.isfinite(result).all()


@pytest.mark.parametrize("strength", [0.1, 0.35, 0.5, 0.66, 0.8, 1.0])
@pytest.mark.parametrize(
    "name",
    ["HeunDiscreteScheduler", "KDPM2DiscreteScheduler", "KDPM2AncestralDiscreteScheduler", "DPMSolverSDEScheduler"],
)
def test_schedulers_of_two_evaluations_begin_with_a_whole_step(name, strength):
    """After a start between the two, the second would count as the first of another step."""
    options = {"use_exponential_sigmas": True} if name.startswith("Heun") else {}
    scheduler = getattr(diffusers, name).from_config(CCLDScheduler().config, **options)
    timesteps = set_start(scheduler, {"num_inference_steps": 10}, strength)
    whole = scheduler.timesteps[::2]  # where steps begin
    assert len(timesteps) % 2 == 1  # the last step needs one evaluation only
    assert timesteps[0] == next(t for t in whole if timestep_to_t(t) <= strength)
    assert scheduler.begin_index == len(scheduler.timesteps) - len(timesteps)


STOCK = [
    ("DDIMScheduler", {}),
    ("EulerDiscreteScheduler", {}),
    ("UniPCMultistepScheduler", {}),
    ("DPMSolverMultistepScheduler", {}),
    ("DEISMultistepScheduler", {}),
    ("LMSDiscreteScheduler", {}),
    ("PNDMScheduler", {"skip_prk_steps": True}),
    ("HeunDiscreteScheduler", {"use_exponential_sigmas": True}),
    ("KDPM2DiscreteScheduler", {}),
]


@pytest.mark.parametrize("name, options", STOCK)
@pytest.mark.parametrize("strength", [0.3, 0.66, 0.9])
def test_stock_schedulers_go_on_from_the_middle_to_the_same_end(name, options, strength):
    """With a network that knows a single image, every run ends there, unless it starts in the middle of a step."""
    scheduler = getattr(diffusers, name).from_config(CCLDScheduler().config, **options)
    timesteps = set_start(scheduler, {"num_inference_steps": 20}, strength)
    image, noise = (original_files.inputs(name, (1, 4, 8, 8)).double() for name in ("e2e.image", "e2e.noise"))
    x = scheduler.add_noise(image, noise, timesteps[:1])
    for t in timesteps:
        model_input = scheduler.scale_model_input(x, t)
        alpha, sigma = t_to_alpha_sigma(timestep_to_t(t.double()))
        x = scheduler.step((alpha * model_input - image) / sigma, t, x, return_dict=False)[0]
    torch.testing.assert_close(x, image, atol=0.02, rtol=0)


def test_a_scheduler_with_a_warm_up_does_not_begin_in_the_middle(img2img, inpaint, picture, mask):
    for pipe, further in ((img2img, {}), (inpaint, {"mask_image": mask})):
        pipe.scheduler = PNDMScheduler.from_config(pipe.scheduler.config)
        with pytest.raises(ValueError, match=r"PNDMScheduler cannot begin at strength=0\.66"):
            pipe("a fox", picture, strength=0.66, num_inference_steps=10, **further)
        result = pipe("a fox", picture, strength=1.0, num_inference_steps=10, output_type="latent", **further).images
        assert torch.isfinite(result).all()


def test_a_vq_autoencoder_will_do(img2img, picture):
    img2img.vae = VQModel(
        latent_channels=4,
        vq_embed_dim=4,
        num_vq_embeddings=16,
        scaling_factor=0.5,
        block_out_channels=(32,) * 4,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
    )
    with torch.no_grad():
        latents = img2img.encode_latents(img2img.prepare_image(picture))
        torch.testing.assert_close(latents, 0.5 * img2img.vae.encode(img2img.prepare_image(picture)).latents)
    assert img2img("a fox", picture, num_inference_steps=2).images[0].size == (64, 64)


# Inversion and editing


@pytest.mark.parametrize("algorithm", ["plms2", "iplms"])
@torch.no_grad()
def test_coming_back_from_an_inversion(img2img, picture, algorithm):
    img2img.scheduler = CCLDScheduler(algorithm_type=algorithm)
    start = img2img.encode_latents(img2img.prepare_image(picture))
    conditions = [(EMBED, 1.0)]
    noisy = img2img.invert(picture, 0.9, 50, conditions)
    assert (noisy - start).abs().max() > 0.5
    timesteps = t_to_timestep(inversion_times(50, "spliced", 0.9).flip(0)[:-1])
    img2img.scheduler.set_timesteps(timesteps=timesteps)
    call = SamplingCall(conditions=conditions, guidance_scale=1.0)
    guidance, scheduler = img2img.prepare_guidance(call), img2img.scheduler
    back = img2img.denoise(noisy, call, guidance=guidance, scheduler=scheduler, timesteps=scheduler.timesteps)
    assert original_files.relative_error(back, start) < 0.05


def test_editing_inverts_and_samples(img2img, picture):
    start = img2img.encode_latents(img2img.prepare_image(picture))
    arguments = {"strength": 0.7, "num_inference_steps": 10, "output_type": "latent"}
    unchanged = img2img.edit(picture, conditions=[], **arguments).images
    changed = img2img.edit(picture, "a fox", **arguments).images
    assert (unchanged - start).norm() < 0.5 * (changed - start).norm()
    assert len(img2img.edit(picture, ["a", "b"], **arguments).images) == 2
    assert img2img.edit(picture, "a fox", num_inference_steps=3).images[0].size == (64, 64)


def test_an_edit_that_is_interrupted_while_it_inverts_does_not_sample(img2img, picture):
    steps = []

    def interrupt(pipe, index, timestep, tensors):
        steps.append(index)
        pipe._interrupt = True
        return {}

    img2img.edit(picture, "a fox", **FEW, callback_on_step_end=interrupt)
    assert steps == [0] and img2img.interrupt
    img2img.edit(picture, "a fox", **FEW)
    assert not img2img.interrupt


def test_inversion_needs_our_scheduler(img2img, picture):
    img2img.scheduler = DDIMScheduler.from_config(img2img.scheduler.config)
    with pytest.raises(ValueError, match="CCLDScheduler"):
        img2img.invert(picture)


# Inpainting


@pytest.fixture(scope="module")
def mask():
    mask = Image.new("L", (64, 64))
    mask.paste(255, (0, 0, 30, 64))
    return mask


@pytest.mark.parametrize("algorithm", ["ddim", "ddpm", "plms", "iplms"])
def test_what_is_not_masked_stays(inpaint, picture, mask, algorithm):
    inpaint.scheduler = CCLDScheduler(algorithm_type=algorithm)
    arguments = {"num_inference_steps": 6, "generator": seeded()}
    painted = inpaint("a fox", picture, mask, output_type="pt", **arguments).images
    original = inpaint.encode_latents(inpaint.prepare_image(picture))
    with torch.no_grad():
        kept = (inpaint.decode_latents(original) / 2 + 0.5).clamp(0, 1)
    torch.testing.assert_close(painted[..., 30:], kept[..., 30:])
    assert (painted[..., :30] - kept[..., :30]).abs().mean() > 0.01

    latents = inpaint("a fox", picture, mask, output_type="latent", **arguments).images
    torch.testing.assert_close(latents[..., 4:], original[..., 4:])  # 30 pixels touch 4 columns of latents
    assert not torch.isclose(latents[..., :4], original[..., :4]).any()


def test_a_batch_of_masks(inpaint, picture, mask):
    result = inpaint("a fox", [picture] * 2, [mask, Image.new("L", (64, 64))], generator=seeded(), **FEW).images
    original = inpaint.encode_latents(inpaint.prepare_image(picture))
    torch.testing.assert_close(result[1:], original, atol=1e-3, rtol=0)
    assert (result[:1] - original).abs().max() > 0.1
    assert len(inpaint(["a", "b"], picture, mask, num_images_per_prompt=2, **FEW).images) == 4


def test_inpainting_with_a_stock_scheduler(inpaint, picture, mask):
    inpaint.scheduler = DDIMScheduler.from_config(inpaint.scheduler.config)
    result = inpaint("a fox", picture, mask, strength=0.8, **{**FEW, "num_inference_steps": 10}).images
    original = inpaint.encode_latents(inpaint.prepare_image(picture))
    torch.testing.assert_close(result[..., 4:], original[..., 4:])


# Wrong input


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ({"image": None}, ValueError, "Give an image"),
        ({"image": "fox.png"}, TypeError, "image must be a PIL image.*str"),
        ({"image": Image.new("RGB", (40, 40))}, ValueError, "multiples of 64"),
        ({"strength": 0.0}, ValueError, "strength=0.0"),
        ({"strength": 1.5}, ValueError, "strength=1.5"),
        ({"strength": 0.001}, ValueError, "leaves none of the"),
        ({"prompt": None}, ValueError, "Give a prompt"),
        ({"prompt": ["a", "b", "c"], "image": [Image.new("RGB", (64, 64))] * 2}, ValueError, "2 images.*3 prompts"),
        ({"generator": [seeded()] * 3}, ValueError, "3 generators"),
        ({"height": 100}, ValueError, "height=100"),
    ],
)
def test_wrong_input_is_refused(img2img, inpaint, picture, mask, arguments, error, message):
    arguments = {"prompt": "a", "image": picture, "num_inference_steps": 4, **arguments}
    with pytest.raises(error, match=message):
        img2img(**arguments)
    with pytest.raises(error, match=message):
        inpaint(**arguments, mask_image=mask)


def test_a_mask_is_needed(inpaint, picture, mask):
    with pytest.raises(ValueError, match="mask_image"):
        inpaint("a", picture)
    with pytest.raises(ValueError, match="3 masks"):
        inpaint("a", picture, [mask] * 3)
    with pytest.raises(TypeError, match="mask_image"):
        inpaint("a", picture, "mask.png")


def test_inverting_and_editing_check_their_input(img2img, picture):
    with pytest.raises(ValueError, match="strength=2"):
        img2img.invert(picture, strength=2)
    with pytest.raises(ValueError, match="first of 5 steps"):
        img2img.edit(picture, "a", strength=0.01, num_inference_steps=5)
    with pytest.raises(ValueError, match="Give a prompt"):
        img2img.edit(picture)
