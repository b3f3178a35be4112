"""The bundled model, trained as README does it and shared: its cards, as a stranger reads them."""

import configparser
import json
import re

import pytest
import yaml
from PIL import Image

from diffusers_ccld import CCLDPipeline, default_model, save_standalone
from diffusers_ccld.sharing.base_models import hub_name, model_license, model_name
from diffusers_ccld.sharing.model_cards import AUTOENCODER, LORA, STANDALONE, save_card
from diffusers_ccld.sharing.standalone_cards import with_use_section
from diffusers_ccld.utils.words import example_prompts, unknown_words, vocabulary_of, whole_words
from support.scripts import ROOT, run_here

PLACEHOLDER = '"USER/my-model"'


@pytest.fixture(scope="module")
def trained(pictures, tmp_path_factory):
    """The result of one step from the bundled model."""
    folder = tmp_path_factory.mktemp("shared") / "my-model"
    options = ("--dataset", pictures, "--max_steps", 1, "--train_batch_size", 1, "--demo_inference_steps", 1)
    options = (*options, "--report_to", "none", "--dataloader_num_workers", 0, "--output_dir", folder)
    assert run_here("training/finetune.py", "--model", "default", *options) == 0
    return folder / "pipeline"


def card_of(folder):
    """The card of a folder: its metadata, its text, and the code of each language."""
    text = (folder / "README.md").read_text()
    _, metadata, body = text.split("---", 2)
    return yaml.safe_load(metadata), body, dict(re.findall(r"```(python|sh)\n(.*?)```", body, re.DOTALL))


def test_its_card_names_what_there_is(trained, pictures):
    metadata, text, code = card_of(trained)
    assert "base_model" not in metadata and "| began from | the bundled model of diffusers-ccld |" in text
    assert metadata["license"] == model_license("default") == "mit" and "| mit, that of the initial model" in text
    assert code["sh"].strip() in (ROOT / "README.md").read_text() and f"Replace {PLACEHOLDER} by" in text
    assert str(trained.parents[1]) not in text and "my-model/pipeline" not in text
    vocabulary = vocabulary_of(trained)
    prompts = (trained / "prompts.txt").read_text().splitlines()
    assert len(prompts) == 8 and not unknown_words(" ".join(prompts), vocabulary)
    assert prompts[0] in code["python"]


def test_the_lines_of_its_card_run(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = card_of(trained)[2]["python"]
    assert code.count(PLACEHOLDER) == 1
    exec(code.replace(PLACEHOLDER, json.dumps(str(trained))), {})
    assert Image.open("picture.png").size == (128, 128)


def test_a_standalone_copy_keeps_the_card_and_loads_without_the_package(trained, tmp_path):
    pipe = CCLDPipeline.from_pretrained(trained)
    save_standalone(pipe, tmp_path / "alone")
    metadata, text, code = card_of(tmp_path / "alone")
    before, old_text, _ = card_of(trained)
    assert metadata == before and text.split("## Training")[1] == old_text.split("## Training")[1]
    assert 'from_pretrained("USER/alone", trust_remote_code=True)' in code["python"]
    assert "import diffusers_ccld" not in text and text.count("## Use") == 1
    for name in ("samples.png", "prompts.txt", "losses.png"):
        assert (tmp_path / "alone" / name).read_bytes() == (trained / name).read_bytes()

    (tmp_path / "alone" / "README.md").write_text("# Mine\n\nIt needs trust_remote_code.\n")
    save_standalone(pipe, tmp_path / "alone")
    assert (tmp_path / "alone" / "README.md").read_text() == "# Mine\n\nIt needs trust_remote_code.\n"


def test_a_standalone_folder_without_a_source_has_a_short_card(pipe, tmp_path):
    pipe.register_to_config(_name_or_path=None)
    save_standalone(pipe, tmp_path / "alone")
    metadata, _, code = card_of(tmp_path / "alone")
    assert metadata["pipeline_tag"] == "text-to-image" and "license" not in metadata
    assert "trust_remote_code=True" in code["python"] and code["sh"].strip() == STANDALONE.libraries


def test_a_section_is_replaced_or_added():
    lines = "```python\nimport diffusers_ccld  # registers the pipeline with diffusers\n## no heading\n```"
    ours = f"# A\n\n## Use\n\n{lines}\n\n## B\n\nc\n"
    assert with_use_section(ours, "## Use\n\nnew") == "# A\n\n## Use\n\nnew\n\n## B\n\nc\n"
    theirs = "# A\n\n```\n## no heading\n```\n\n## Use\n\nwith love\n"
    assert with_use_section(theirs, "## Use\n\nnew") == theirs.replace("## Use", "## Use\n\nnew\n\n## Use")
    assert with_use_section("# A\n", "## Use") == "# A\n\n## Use\n"


def test_the_libraries_of_a_card_are_those_of_the_package():
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    required = settings["options"]["install_requires"].split()
    for kind in (STANDALONE, AUTOENCODER):
        assert set(re.findall(r'"([^"]*)"', kind.libraries)) <= set(required)


@pytest.mark.parametrize(
    "base, place, replaced",
    [
        ("default", "diffusers_ccld.default_model()", False),
        ("somebody/model", '"somebody/model"', False),
        ("LOCAL", '"USER/first-run"', True),
    ],
)
def test_a_lora_names_its_base(base, place, replaced, tmp_path):
    (tmp_path / "first-run" / "pipeline").mkdir(parents=True)
    source = str(tmp_path / "first-run" / "pipeline") if base == "LOCAL" else base
    save_card(tmp_path, LORA, "somebody/lora", base=source)
    metadata, text, code = card_of(tmp_path)
    assert metadata.get("base_model") == (base if base == "somebody/model" else None)
    assert f"from_pretrained({place})" in code["python"] and 'load_lora_weights("somebody/lora")' in code["python"]
    assert ("Replace" in text) == replaced and str(tmp_path) not in text


def test_names_and_licences_of_base_models(tmp_path):
    names = {"default": None, "a/b": "a/b", str(tmp_path): None, "../b": None, "a b/c": None}
    assert {source: hub_name(source) for source in names} == names
    assert model_name(str(tmp_path)) == tmp_path.name and model_name("a/b") == "a/b"
    for card, expected in [
        ("---\nlicense: cc-by-4.0\n---\n# A\n", "cc-by-4.0"),
        ("# A\nlicense: mit\n", None),
        ("---\n[\n---\n", None),
        ("---\nlicense: [a]\n---\n", None),
        (None, None),
    ]:
        (tmp_path / "README.md").unlink(missing_ok=True)
        if card is not None:
            (tmp_path / "README.md").write_text(card)
        assert model_license(str(tmp_path)) == expected
    assert model_license("nobody/nothing") is None


def test_prompts_are_of_words_that_a_model_knows():
    bundled = vocabulary_of(default_model())
    own = ["a red dragon", "a cat at night"]
    assert example_prompts(bundled, own)[0] == "a cat at night" and len(example_prompts(bundled)) == 8
    assert not unknown_words(" ".join(example_prompts(bundled)), bundled)
    assert example_prompts(set(), own)[:2] == own
    flowers = {"a</w>", "ul", "tulip</w>", "lip</w>", "daisy</w>", "on</w>"}
    assert example_prompts(flowers) == whole_words(flowers) == ["daisy", "tulip"]
    assert {"seascape", "watercolor"} <= set(whole_words(bundled)) and "scape" not in whole_words(bundled)
