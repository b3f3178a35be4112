"""`ccld embed`, its files, and the learning of an embedding."""

import json
import re

import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from diffusers_ccld import CCLDPipeline, load_embedding
from diffusers_ccld.cli import main
from diffusers_ccld.cli.command_lines import command_of
from diffusers_ccld.data.embedding_files import EmbeddingFile, encoder_fingerprint, mean_direction
from diffusers_ccld.models.modeling_cloob import CLOOBVisionModelWithProjection
from diffusers_ccld.training.embedding_inversion import learn_embedding


@pytest.fixture(scope="module")
def style(trainable_folder, pictures, tmp_path_factory):
    path = tmp_path_factory.mktemp("styles") / "style.safetensors"
    assert main(["embed", str(pictures), "--model", str(trainable_folder), "-o", str(path)]) == 0
    return path


@pytest.fixture
def trainable(trainable_folder):
    pipe = CCLDPipeline.from_pretrained(trainable_folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_the_mean_of_pictures_is_a_condition(style, trainable, pictures):
    paths = sorted(path for path in pictures.iterdir() if path.suffix in (".png", ".jpg", ".webp"))
    embeds = trainable.encode_image([Image.open(path) for path in paths])
    embedding = load_embedding(style, trainable)
    torch.testing.assert_close(embedding, F.normalize(embeds.mean(dim=0), dim=0), atol=1e-4, rtol=1e-4)
    origin = EmbeddingFile.read(style).origin
    assert origin["method"] == "mean" and origin["pictures"] == [path.name for path in paths]
    options = {"num_inference_steps": 2, "output_type": "latent", "guidance_scale": 2.0}
    generators = [torch.Generator().manual_seed(0) for _ in range(2)]
    a = trainable(conditions=[(embedding, 2.0)], generator=generators[0], **options).images
    b = trainable(prompt_embeds=embedding[None], generator=generators[1], **options).images
    assert torch.equal(a, b)


def test_an_embedding_of_another_cloob_is_refused(style, trainable):
    load_embedding(style, trainable.to(torch.bfloat16))
    trainable.image_encoder = CLOOBVisionModelWithProjection(trainable.image_encoder.config)
    with pytest.raises(ValueError, match="another CLOOB"):
        load_embedding(style, trainable)
    trainable.image_encoder = None
    with pytest.raises(ValueError, match="another CLOOB"):
        load_embedding(style, trainable)


def test_what_is_not_an_embedding_is_refused(tmp_path, trainable_folder, capsys):
    (tmp_path / "text").write_text("no embedding")
    for path in ("text", "nowhere"):
        with pytest.raises(ValueError, match=r"does not exist|not a file of"):
            load_embedding(tmp_path / path)
    with pytest.raises(ValueError, match="not a file of"):
        load_embedding(trainable_folder / "unet" / "diffusion_pytorch_model.safetensors")
    with pytest.raises(ValueError, match="cancel one another"):
        mean_direction(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]))
    (tmp_path / "empty").mkdir()
    for arguments, message in (
        ([tmp_path / "empty"], "the folder has no pictures"),
        ([tmp_path / "nowhere.png"], f"error: {tmp_path}/nowhere.png: the file does not exist."),
        ([tmp_path / "text"], f"error: {tmp_path}/text: the file is not an image"),
        ([tmp_path / "text", "--learn", "-1"], "--learn must be at least 0"),
    ):
        assert main(["embed", *map(str, arguments), "-o", str(tmp_path / "out")]) == 2
        assert message in capsys.readouterr().err and not (tmp_path / "out").exists()


@pytest.mark.parametrize("embedding", [torch.ones(8), torch.zeros(8), torch.full((8,), float("nan")), torch.ones(0)])
def test_embeddings_that_are_not_of_unit_length_are_refused(embedding, tmp_path):
    path = tmp_path / "damaged.safetensors"
    EmbeddingFile(embedding=embedding, fingerprint=torch.ones(4, len(embedding)), origin={}).save(path)
    with pytest.raises(ValueError, match=r"damaged\.safetensors is not a file .*not of unit length"):
        EmbeddingFile.read(path)


def test_fingerprints_tell_encoders_apart(trainable):
    own = encoder_fingerprint(trainable.image_encoder)
    other = encoder_fingerprint(CLOOBVisionModelWithProjection(trainable.image_encoder.config))
    assert F.cosine_similarity(own, other).min() < 0.9


class Echo(torch.nn.Module):
    """A network whose prediction is three times its condition."""

    dtype = torch.float32
    config = type("", (), {"time_cond_proj_dim": None})

    def forward(self, sample, timestep, encoder_hidden_states, **kwargs):
        return (3 * encoder_hidden_states[:, 0].reshape(sample.shape),)


def test_the_learned_embedding_is_the_best_one():
    """v = α·ε − σ·x₀ has the mean −E[σ]·x₀, so the best condition of an echo is the direction of −x₀."""
    latents = 5 * torch.randn(1, 2, 4, 4)
    learned = learn_embedding(Echo(), latents, torch.randn(32), num_steps=200, batch_size=16)
    assert learned @ F.normalize(-latents.flatten(), dim=0) > 0.99


def test_learning_lowers_the_loss(trainable_folder, pictures, tmp_path, capsys):
    path = tmp_path / "learned.safetensors"
    options = ("--model", trainable_folder, "--learn", 20, "--learning-rate", 0.05, "-o", path)
    assert main(["embed", *map(str, (pictures, *options))]) == 0
    before, after = re.search(r"loss (\S+) before, (\S+) after", capsys.readouterr().out).groups()
    assert float(after) < float(before)
    origin = EmbeddingFile.read(path).origin
    assert origin["method"] == "textual inversion" and origin["learn"] == 20


def test_an_existing_file_is_replaced_only_if_told_so(trainable_folder, tmp_path, capsys):
    path = tmp_path / "style.safetensors"
    path.write_text("mine")
    Image.new("RGB", (40, 40), "red").save(tmp_path / "red.png")
    arguments = ["embed", str(tmp_path / "red.png"), "--model", str(trainable_folder), "-o", str(path)]
    assert main(arguments) == 2 and path.read_text() == "mine"
    assert f"--output {path} exists. Give another name, or --overwrite to replace it." in capsys.readouterr().err
    assert main([*arguments, "--overwrite"]) == 0 and not capsys.readouterr().err  # no bars of the libraries
    assert EmbeddingFile.read(path).origin["pictures"] == ["red.png"]


def record_in(path):
    with Image.open(path) as picture:
        return json.loads(picture.info["ccld"])


def test_sampling_with_an_embedding(style, trainable_folder, tmp_path):
    options = (
        "--model",
        trainable_folder,
        "--embedding",
        f"{style}:1.2",
        "--steps",
        2,
        "--output",
        tmp_path / "a.png",
    )
    assert main(["sample", *map(str, options)]) == 0
    record = record_in(tmp_path / "a.png")
    assert record["conditions"] == [[str(style), 1.2]] and record["embeddings"] == [str(style)]
    assert f"--embedding {style}:1.2" in command_of(record)


def test_sampling_guided_by_cloob_alone(trainable_folder, tmp_path, capsys):
    options = ("--model", trainable_folder, "--algorithm", "ddim", "--steps", 2, "--output")
    for name, guidance in (("a.png", "5"), ("b.png", "0.001")):
        call = ("sample", "a fox", "--cloob-guidance", guidance, *options, tmp_path / name)
        assert main([*map(str, call)]) == 0
    record = record_in(tmp_path / "a.png")
    assert record["cloob_guidance"] == 5 and "--cloob-guidance 5" in command_of(record)
    assert record["conditions"] == [["a fox", 1.0]]
    assert (tmp_path / "a.png").read_bytes() != (tmp_path / "b.png").read_bytes()
    capsys.readouterr()
    for wrong, message in (
        (("--cloob-guidance", 5), "needs a prompt"),
        (("a fox", "--cloob-guidance", 5, "--guidance-scale", 2), "replaces --guidance-scale"),
        (("a fox", "--embedding", tmp_path / "nothing:2"), "does not exist"),
    ):
        assert main(["sample", *map(str, wrong), *map(str, options), str(tmp_path / "c.png")]) == 2
        assert message in capsys.readouterr().err
