import pytest
import torch
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoTokenizer

from diffusers_ccld import (
    CLOOBConfig,
    CLOOBImageProcessor,
    CLOOBModel,
    CLOOBTextModelWithProjection,
    CLOOBTokenizer,
    CLOOBVisionConfig,
    CLOOBVisionModelWithProjection,
)
from diffusers_ccld.models.losses_cloob import cloob_loss
from diffusers_ccld.models.vision_embeddings import CLOOBResidualBlock
from diffusers_ccld.original.tensors.cloob import PUBLISHED_CONFIGS, cloob_table, load_cloob_config, parse_cloob_config
from diffusers_ccld.original.tensors.tables import from_original, to_original
from support import original_files

TEXTS = original_files.read_json("cloob")["texts"]


def original_cloob(size, is_jax=True):
    config = parse_cloob_config(original_files.read_json("cloob")["models"][size]["config"], size)
    if is_jax:
        trees = original_files.cloob_params(size)
        state = {
            f"{m}/{leaf}": torch.from_numpy(a) for tree in trees for m, ls in tree.items() for leaf, a in ls.items()
        }
    else:
        state = original_files.cloob_port_state(size)
    with torch.device("meta"):
        model = CLOOBModel(config)
    for component, tower in (("text_encoder", model.text_model), ("image_encoder", model.vision_model)):
        shapes = {name: tensor.shape for name, tensor in tower.state_dict().items()}
        table = cloob_table(component, tower.config.num_hidden_layers, is_jax)
        converted, _ = from_original(state, table, shapes, ignore=".*")
        tower.load_state_dict({n: t.contiguous() for n, t in converted.items()}, assign=True)
    return model.eval()


def reference_pixels(size):
    images = torch.sigmoid(original_files.inputs("cloob.image", (2, 3, size, size)))
    return CLOOBImageProcessor(size=size).normalize(images)


@pytest.fixture(scope="module")
def model():
    return original_cloob("tiny")


# Text, image. Sharp attention over many layers amplifies rounding: the float32 reference of ViT-B/16 is itself
# 4e-5 and 5e-4 away from a float64 run of the same function, that of ViT-L/14 6e-5 and 2e-3.
TOLERANCES = {"tiny": (2e-5, 2e-5), "vit-b-16": (2e-4, 1e-3), "vit-l-14": (2e-4, 4e-3)}


@pytest.mark.parametrize("size", ["tiny", "vit-b-16", pytest.param("vit-l-14", marks=pytest.mark.slow)])
@torch.no_grad()
def test_embeddings_are_the_originals(size):
    model, expected = original_cloob(size), original_files.reference(f"cloob_{size}")
    text_embeds = model.get_text_features(torch.from_numpy(expected["tokens"]).long()).pooler_output
    image_size = model.config.vision_config.image_size
    image_embeds = model.get_image_features(reference_pixels(image_size)).pooler_output
    text_tolerance, image_tolerance = TOLERANCES[size]
    assert original_files.relative_error(text_embeds, expected["text_embeds"]) < text_tolerance
    assert original_files.relative_error(image_embeds, expected["image_embeds"]) < image_tolerance
    torch.testing.assert_close(text_embeds.norm(dim=-1), torch.ones(len(TEXTS)))


@torch.no_grad()
def test_the_mask_on_queries_is_the_originals_mistake(model):
    """Masking the keys, as one would expect, changes the embeddings: the reference tells the two apart."""
    tokens = torch.from_numpy(original_files.reference("cloob_tiny")["tokens"]).long()
    right = model.text_model(tokens).text_embeds
    longer = tokens.clone()
    longer[:, -1] = 5  # padding is visible as keys, so its content counts
    assert original_files.relative_error(model.text_model(longer).text_embeds, right) > 1e-3


@torch.no_grad()
def test_both_formats_give_one_model(model):
    port = original_cloob("tiny", is_jax=False)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), port.state_dict().values()))


def test_the_way_to_the_original_and_back_changes_no_bit(model):
    for component, tower, tree in zip(
        ("image_encoder", "text_encoder"), (model.vision_model, model.text_model), original_files.cloob_params("tiny")
    ):
        back = to_original(tower.state_dict(), cloob_table(component, tower.config.num_hidden_layers, is_jax=True))
        flat = {f"{module}/{leaf}": array for module, leaves in tree.items() for leaf, array in leaves.items()}
        assert back.keys() == flat.keys()
        assert all((back[name].numpy() == flat[name]).all() for name in flat)


@torch.no_grad()
def test_short_sequences_are_padded(model):
    tokens = torch.from_numpy(original_files.reference("cloob_tiny")["tokens"]).long()[1:2]
    torch.testing.assert_close(model.text_model(tokens[:, :4]).text_embeds, model.text_model(tokens).text_embeds)
    with pytest.raises(ValueError, match="77"):
        model.text_model(torch.zeros(1, 78, dtype=torch.long))


def test_an_attention_mask_is_refused_rather_than_ignored(model):
    tokens = torch.zeros(1, 77, dtype=torch.long)
    with pytest.raises(TypeError, match="attention_mask"):
        model.text_model(tokens, attention_mask=torch.ones_like(tokens))


def test_images_of_another_size_are_refused(model):
    with pytest.raises(ValueError, match="32, 32"):
        model.vision_model(torch.zeros(1, 3, 224, 224))


@torch.no_grad()
def test_attention_implementations_agree(model, tmp_path):
    model.save_pretrained(tmp_path)
    eager = CLOOBModel.from_pretrained(tmp_path, attn_implementation="eager")
    tokens = torch.from_numpy(original_files.reference("cloob_tiny")["tokens"]).long()
    output = eager.text_model(tokens, output_attentions=True, output_hidden_states=True)
    torch.testing.assert_close(output.text_embeds, model.text_model(tokens).text_embeds)
    assert len(output.attentions) == 2 and output.attentions[0].shape == (len(TEXTS), 2, 77, 77)
    assert len(output.hidden_states) == 3


@torch.no_grad()
def test_towers_load_alone_and_together(model, tmp_path):
    tokens, pixels = torch.randint(0, 49406, (2, 77)), torch.randn(2, 3, 32, 32)
    expected = model(tokens, pixels, return_loss=True)

    model.text_model.save_pretrained(tmp_path / "text_encoder")
    model.vision_model.save_pretrained(tmp_path / "image_encoder")
    assert isinstance(AutoConfig.from_pretrained(tmp_path / "text_encoder"), type(model.text_model.config))
    assert isinstance(AutoModel.from_pretrained(tmp_path / "text_encoder"), CLOOBTextModelWithProjection)
    assert isinstance(AutoModel.from_pretrained(tmp_path / "image_encoder"), CLOOBVisionModelWithProjection)
    joint = CLOOBModel.from_vision_text_pretrained(tmp_path / "image_encoder", tmp_path / "text_encoder")
    assert torch.equal(joint(tokens, pixels, return_loss=True).loss, expected.loss)
    assert joint.config.text_config is joint.text_model.config
    joint.set_attn_implementation("eager")
    assert joint.vision_model.config._attn_implementation == "eager"
    joint.set_attn_implementation("sdpa")

    joint.save_pretrained(tmp_path / "joint")
    again = AutoModel.from_pretrained(tmp_path / "joint")
    assert isinstance(again, CLOOBModel)
    assert torch.equal(again(tokens, pixels).logits_per_image, expected.logits_per_image)
    assert torch.equal(expected.logits_per_image, expected.logits_per_text.T)
    alone = CLOOBTextModelWithProjection.from_pretrained(tmp_path / "joint")
    assert torch.equal(alone(tokens).text_embeds, expected.text_embeds)
    alone = CLOOBVisionModelWithProjection.from_pretrained(tmp_path / "joint")
    assert torch.equal(alone(pixels).image_embeds, expected.image_embeds)


def test_the_joint_models_loss(model):
    tokens, pixels = torch.randint(0, 49406, (3, 77)), torch.randn(3, 3, 32, 32)
    output = model(tokens, pixels, return_loss=True)
    assert torch.equal(output.loss, cloob_loss(output.image_embeds, output.text_embeds))
    assert model(tokens, pixels).loss is None
    output.loss.backward()
    assert all(p.grad is not None for p in model.parameters())
    model.zero_grad()


def test_a_new_model_is_initialised_within_reason():
    model = CLOOBModel(parse_cloob_config(original_files.read_json("cloob")["models"]["tiny"]["config"], "tiny"))
    assert all(torch.isfinite(p).all() and p.abs().max() < 10 for p in model.parameters())
    layer = model.text_model.layers[0]
    assert layer.mlp.fc1.weight.std().item() == pytest.approx(64**-0.5, rel=0.2)
    assert not layer.mlp.fc1.bias.any()


def test_gradient_checkpointing_changes_no_gradient(model):
    tokens = torch.randint(0, 49406, (2, 77))

    def gradient():
        model.zero_grad()
        model.text_model(tokens).text_embeds.sum().backward()
        return model.text_model.layers[0].mlp.fc1.weight.grad.clone()

    expected = gradient()
    model.train()
    model.gradient_checkpointing_enable()
    torch.testing.assert_close(gradient(), expected)
    model.gradient_checkpointing_disable()
    model.eval()


@pytest.mark.parametrize("name", PUBLISHED_CONFIGS)
def test_published_configurations(name):
    config = load_cloob_config(name)
    text, vision = config.text_config, config.vision_config
    assert text.hidden_size // text.num_attention_heads == vision.hidden_size // vision.num_attention_heads == 64
    assert config.projection_dim == text.projection_dim == vision.projection_dim


def test_auto_classes_find_the_preprocessors(pipeline_folder):
    assert isinstance(AutoTokenizer.from_pretrained(pipeline_folder / "tokenizer"), CLOOBTokenizer)
    assert isinstance(AutoImageProcessor.from_pretrained(pipeline_folder / "feature_extractor"), CLOOBImageProcessor)


def test_towers_of_different_spaces_do_not_join():
    with pytest.raises(ValueError, match="different spaces"):
        CLOOBModel(CLOOBConfig(text_config={"projection_dim": 256}))


SMALL_TOWER = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}


@pytest.mark.parametrize("depth", [0, 1])
@torch.no_grad()
def test_patches_may_be_made_by_convolutions(depth, tmp_path):
    """One vector per patch, the same after saving, and independent of the rest of the batch."""
    config = CLOOBVisionConfig(**SMALL_TOWER, stem_channels=[8, 16, 16], stem_depth=depth)
    image_encoder = CLOOBVisionModelWithProjection(config).eval()
    pixels = torch.randn(2, 3, 32, 32)
    output = image_encoder(pixels)
    assert output.last_hidden_state.shape == (2, 1 + 16, 32)
    assert torch.allclose(image_encoder(pixels[:1]).image_embeds, output.image_embeds[:1], atol=1e-6)
    image_encoder.save_pretrained(tmp_path)
    again = CLOOBVisionModelWithProjection.from_pretrained(tmp_path).eval()
    assert torch.equal(again(pixels).image_embeds, output.image_embeds)
    assert again.config.stem_channels == [8, 16, 16] and again.config.stem_depth == depth
    # Caches from before there were stems, or residual blocks in them, stay valid.
    assert not any(name.startswith("stem_") for name in CLOOBVisionConfig().to_dict())
    assert ("stem_depth" in config.to_dict()) == (depth > 0)
    half = again.to(torch.bfloat16)(pixels).image_embeds
    assert half.dtype == torch.bfloat16 and torch.cosine_similarity(half.float(), output.image_embeds).min() > 0.99


@torch.no_grad()
def test_residual_blocks_add_to_what_they_get():
    config = CLOOBVisionConfig(**SMALL_TOWER, stem_channels=[8, 16, 16], stem_depth=2)
    image_encoder = CLOOBVisionModelWithProjection(config).eval()
    blocks = [module for module in image_encoder.modules() if isinstance(module, CLOOBResidualBlock)]
    assert len(blocks) == 6
    for block in blocks:
        block.residual[-1].weight.zero_()
    plain = CLOOBVisionModelWithProjection(CLOOBVisionConfig(**SMALL_TOWER, stem_channels=[8, 16, 16])).eval()
    stem = image_encoder.embeddings.patch_embedding
    others = [layer for layer in stem if not isinstance(layer, CLOOBResidualBlock)]
    for mine, theirs in zip(others, plain.embeddings.patch_embedding, strict=True):
        theirs.load_state_dict(mine.state_dict())
    pixels = torch.randn(2, 3, 32, 32)
    assert torch.equal(stem(pixels), plain.embeddings.patch_embedding(pixels))


@torch.no_grad()
def test_feature_maps_are_the_stems_or_the_layers():
    pixels = torch.randn(2, 3, 32, 32)
    config = CLOOBVisionConfig(**SMALL_TOWER, stem_channels=[8, 16, 24], stem_depth=1)
    image_encoder = CLOOBVisionModelWithProjection(config).eval()
    maps = image_encoder.feature_maps(pixels)
    assert [tuple(features.shape) for features in maps] == [(2, 8, 16, 16), (2, 16, 8, 8), (2, 24, 4, 4)]
    stem = image_encoder.embeddings.patch_embedding
    assert torch.equal(stem[-1](maps[-1]), stem(pixels))
    half = CLOOBVisionModelWithProjection(config).to(torch.bfloat16).feature_maps(pixels)
    assert {features.dtype for features in half} == {torch.bfloat16}
    with pytest.raises(ValueError, match="expected"):
        image_encoder.feature_maps(torch.randn(2, 3, 40, 40))

    image_encoder = CLOOBVisionModelWithProjection(CLOOBVisionConfig(**SMALL_TOWER | {"num_hidden_layers": 2})).eval()
    maps, states = image_encoder.feature_maps(pixels), image_encoder(pixels, output_hidden_states=True).hidden_states
    assert [tuple(features.shape) for features in maps] == [(2, 32, 4, 4)] * 2
    assert torch.equal(maps[1][0, :, 1, 2], states[2][0, 1 + 4 + 2])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"stem_depth": -1}, "must not be negative"),
        ({"stem_depth": 1}, "need a stem"),
        ({"stem_channels": [], "patch_size": 1}, "multiples of 8"),
        ({"stem_channels": [0, 8, 8]}, "multiples of 8"),
        ({"stem_channels": [8, 8, 8], "image_size": 36}, "image_size"),
    ],
)
def test_impossible_stems_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        CLOOBVisionConfig(**SMALL_TOWER | settings)
