"""The environment of `make paint`, which has no torch: it paints, and what needs torch says so in one line."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import diffusers_ccld
from support.environments import hide_others
from support.pages import commands_of
from support.scripts import ROOT

SOURCE = Path(diffusers_ccld.__file__).parents[1]
README = ROOT / "README.md"
PACKAGES = re.search(r"^LIGHT := (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[1].split()
LARGEST = 500  # MB; with torch it is 1,900 at least

RUN = """
import contextlib, io, json, sys
from ccld_command import main
answers = []
for arguments in json.load(sys.stdin):
    output, error = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(error):
        answers.append((main(arguments), output.getvalue(), error.getvalue()))
json.dump(answers, sys.stdout)
"""
REFUSAL = re.compile(
    r"error: (.*: this needs torch, which is not installed. To install it|The demo needs Gradio): (.*)\n"
)

SAMPLE = ["sample", "a rose", "-n", "1", "--steps", "1", "-o", "rose.png"]
PAINTING = [
    SAMPLE,
    [*SAMPLE, "--image", "rose.png:0.5", "--negative-prompt", "fog", "--algorithm", "unipc", "--variation", "0.5"],
    [*SAMPLE, "--model", "default", "--runtime", "onnx", "--algorithm", "ddim", "--eta", "1", "--verbose"],
    [*SAMPLE, "--model", str(SOURCE / "diffusers_ccld" / "default_model"), "--device", "cpu", "--dtype", "fp32"],
    ["inspect", "rose.png"],
    ["inspect", "default"],
    ["inspect", str(SOURCE / "diffusers_ccld" / "default_model")],
]
OPTIONS = [
    ["--init", "style.png"],
    ["--init", "style.png", "--mask", "style.png"],
    ["--edit", "style.png"],
    ["--best", "1"],
    ["--embedding", "style.safetensors"],
    ["--cloob-guidance", "150"],
    ["--parallel-guidance", "0.5"],
    ["--compile"],
    ["--device", "cuda"],
    ["--dtype", "bf16"],
    ["--algorithm", "plms"],
    ["--runtime", "torch"],
    ["--model", "my-model"],
    ["--model", "somebody/model"],
]
NEEDING_TORCH = [
    *([*SAMPLE, *options] for options in OPTIONS),
    ["interpolate", "a rose", "a cat"],
    ["compare", "default", "default", "--prompts", "prompts.txt"],
    ["demo"],
    ["demo", "--runtime", "onnx", "--mcp"],
    ["embed", "style.png", "-o", "new.safetensors"],
    ["convert", "--preset", "wikiart-mini", "--output", "converted"],
    ["inspect", "style.safetensors"],
    ["export", "my-model", "--unet", "unet.ckpt"],
    ["export-onnx", "my-model"],
    ["measure-scale", "--vae", "my-model", "--images", "my-pictures"],
]


class Environment:
    """A Python, and what it runs before anything else.

    Attributes:
        python: The interpreter.
        before: Code that hides the packages that the environment lacks.
        advice: What refusals advise to run.
    """

    def __init__(self, python: Path, before: str, advice: str):
        self.python, self.before, self.advice = python, before, re.compile(advice)

    def run(self, code: str, folder: Path, text: str = "") -> subprocess.CompletedProcess:
        """Runs code in a folder."""
        variables = {"PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1"}
        variables |= {"PYTHONPATH": str(SOURCE)} if self.before else {}
        command = [self.python, "-c", self.before + code]
        return subprocess.run(
            command, input=text, capture_output=True, text=True, check=False, cwd=folder, env=variables
        )

    def answers(self, commands: list[list[str]], folder: Path) -> list[tuple[int, str, str]]:
        """Status, output and errors of `ccld` commands, run in a folder that has the files they name."""
        for name in ("my-model/pipeline", "my-pictures", "docs/images"):
            (folder / name).mkdir(parents=True)
        (folder / "style.safetensors").write_bytes(b"\x02" + bytes(7) + b"{}")
        for name in ("style.png", "prompts.txt", "docs/images/prompts.txt"):
            (folder / name).touch()
        result = self.run(RUN, folder, json.dumps(commands))
        assert result.returncode == 0, result.stderr
        return json.loads(result.stdout)


def make_environment(folder: Path) -> Environment:
    """Runs `make paint` in a fresh copy of the checkout."""
    shutil.copytree(ROOT / "src", folder / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in ("Makefile", "setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    made = subprocess.run(["make", "paint"], capture_output=True, text=True, check=False, cwd=folder)
    if "onnection" in made.stderr or "name resolution" in made.stderr:
        pytest.skip("The packages cannot be downloaded here.")
    assert made.returncode == 0, made.stderr
    assert (folder / "outputs" / "pictures" / "a-sailing-boat-in-summer-watercolor-3.png").is_file()
    return Environment(folder / ".venv" / "bin" / "python", "", f"make -C {folder} (install|demo)")


@pytest.fixture(
    scope="module", params=["this one without the others", pytest.param("a new one", marks=pytest.mark.slow)]
)
def painting(request, tmp_path_factory):
    """The environment: this one, whose other packages cannot be imported, or one that `make paint` makes."""
    if request.param == "a new one":
        return make_environment(tmp_path_factory.mktemp("checkout"))
    return Environment(Path(sys.executable), hide_others(PACKAGES), "(make|pip) .*install.*|make .*demo")


def test_it_paints(painting, tmp_path):
    for command, (status, output, error) in zip(PAINTING, painting.answers(PAINTING, tmp_path)):
        assert status == 0 and output, (command, error)
    assert {f"rose{number}.png" for number in ("", "-2", "-3", "-4")} <= {path.name for path in tmp_path.iterdir()}


def test_what_needs_torch_is_refused_in_one_line(painting, tmp_path):
    for command, (status, _, error) in zip(NEEDING_TORCH, painting.answers(NEEDING_TORCH, tmp_path)):
        refusal = REFUSAL.fullmatch(error)
        assert status == 2 and refusal and painting.advice.fullmatch(refusal[2]), (command, error)
    assert sorted(path.name for path in tmp_path.iterdir() if path.suffix == ".png") == ["style.png"]


def test_readme_installs_the_package_before_it_is_needed(painting, tmp_path):
    """Without torch, each command paints or is refused in one line, and is refused only after `make install`."""
    text = README.read_text()
    places = [match.start() for match in re.finditer("^ccld ", text, re.MULTILINE)]
    commands = commands_of(README)
    assert len(commands) == len(places)
    installed = text.index("\nmake install")
    assert installed < text.index("```python")
    num_refused = 0
    # `answers` makes the files that lines before would have made.
    commands = [[*command, "--overwrite"] if command[0] == "embed" else command for command in commands]
    for command, place, (status, _, error) in zip(commands, places, painting.answers(commands, tmp_path)):
        if status:
            num_refused += 1
            assert REFUSAL.fullmatch(error) and place > installed, (command, error)
    assert 0 < num_refused < len(commands)


def test_the_package_can_be_imported(painting, tmp_path):
    assert painting.run("import diffusers_ccld; print(diffusers_ccld.__version__)", tmp_path).returncode == 0
    refused = painting.run("from diffusers_ccld import CCLDPipeline", tmp_path).stderr.splitlines()[-1]
    start = "ImportError: diffusers_ccld.CCLDPipeline needs torch, which is not installed. To install it: "
    assert refused.startswith(start) and painting.advice.fullmatch(refused.removeprefix(start))
    code = "from diffusers_ccld.onnx.pipeline import OnnxPipeline; print(OnnxPipeline().default_size)"
    assert painting.run(code, tmp_path).stdout == "(128, 128)\n"


@pytest.mark.slow
def test_it_is_small(painting):
    if painting.before:
        pytest.skip("Packages that are hidden take their place.")
    size = subprocess.run(["du", "-sm", painting.python.parents[1]], capture_output=True, text=True, check=True).stdout
    assert int(size.split()[0]) < LARGEST
