"""House rules: imports go down, tests share code through tests/support, files are short, docstrings have a subject."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import diffusers_ccld

PACKAGE = Path(diffusers_ccld.__file__).parent
ROOT = Path(__file__).parents[1]

# From the ground up: a subpackage imports from floors below its own, and from nowhere else.
FLOORS = (
    {"utils", "models", "schedulers", "paintings", "version"},
    {"pipelines", "data", "sharing"},
    {"inference"},
    {"original", "training", "evaluation", "onnx"},
    {"registration"},
    {"__init__"},
    {"demo"},
    {"cli"},
    {"__main__"},
)
FLOOR_OF = {name: floor for floor, names in enumerate(FLOORS) for name in names}
SAMPLING = {"utils", "models", "schedulers", "pipelines", "inference", "sharing", "original", "registration"}

FOLDERS_OF_CODE = ("src", "training", "conversion", "benchmarks", "tests")
SOURCES = sorted(path for folder in FOLDERS_OF_CODE for path in (ROOT / folder).rglob("*.py"))
BENCHMARKS = {path.stem for path in (ROOT / "benchmarks").glob("*.py")}
MAX_LINES = 450
MAX_FUNCTION_LINES = 60  # without signature and docstring
HEADLESS = re.compile(r'"""(?:What|Whether|Which|How|Where|Who|That)\b.*')
MAX_HEADLESS = 10


def imports_of(path: Path) -> set[str]:
    """Subpackages and top modules of this package that a file imports, inside functions and by full name too."""
    here = path.relative_to(PACKAGE).parts[:-1]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            module = tuple((node.module or "").split(".")) if node.module else ()
            if node.level:
                module = (*here[: len(here) - node.level + 1], *module)
            elif module[:1] == (PACKAGE.name,):
                module = module[1:]
            else:
                continue
            found |= {module[0]} if module else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            names = [alias.name.split(".") for alias in node.names]
            found |= {name[1] if len(name) > 1 else "__init__" for name in names if name[0] == PACKAGE.name}
    return {name if name in FLOOR_OF else "__init__" for name in found}


def breaches(path: Path) -> set[str]:
    """Imports of a file that do not go down."""
    own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    return {name for name in imports_of(path) - {own} if FLOOR_OF[name] >= FLOOR_OF[own]}


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: p.relative_to(PACKAGE).as_posix())
def test_imports_go_downwards(path):
    assert not breaches(path)


@pytest.mark.parametrize(
    "statement",
    [
        "from ..cli import arguments",
        "from .. import evaluation",
        "import diffusers_ccld.demo.page",
        "from diffusers_ccld.training import run",
        "from diffusers_ccld import CCLDPipeline",
        "def f():\n    from ..inference.loading import load_pipeline",
        "if TYPE_CHECKING:\n    from ..pipelines.conditions import Guidance",
    ],
)
def test_an_import_that_goes_up_is_found(statement, tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "PACKAGE", tmp_path / "diffusers_ccld")
    file = tmp_path / "diffusers_ccld" / "models" / "unet_ccld.py"
    file.parent.mkdir(parents=True)
    file.write_text(statement + "\n")
    assert breaches(file)
    file.write_text("from .prediction import predict_velocity\nimport torch\n")
    assert not breaches(file)


def test_the_folder_listing_is_short():
    entries = [path.name for path in PACKAGE.iterdir() if path.name != "__pycache__"]
    assert len(entries) <= 20, entries
    assert {name.removesuffix(".py") for name in entries} - {"default_model"} == FLOOR_OF.keys()


def test_sampling_needs_neither_data_nor_training():
    for name in SAMPLING:
        modules = [*(PACKAGE / name).rglob("*.py"), *PACKAGE.glob(f"{name}.py")]
        imported = {found for path in modules for found in imports_of(path)}
        assert not imported & {"data", "training", "evaluation", "demo", "cli"}


def test_the_scheduler_stands_on_the_noise_schedule_and_its_solvers():
    schedulers = PACKAGE / "schedulers"
    assert imports_of(schedulers / "scheduling_ccld.py") | imports_of(schedulers / "solvers.py") == {"schedulers"}
    noise_schedule = (schedulers / "noise_schedule.py").read_text()
    assert re.findall(r"from (\.\S*|diffusers\S*) import", noise_schedule) == [".names"]
    assert "import" not in (schedulers / "names.py").read_text()


def test_painting_loads_nothing_that_it_does_not_need():
    """Nor torchvision: transformers imports it wherever it is installed, but painting works without it."""
    heavy = {"open_clip", "timm", "datasets", "gradio", "matplotlib", "cv2", "torchmetrics"}
    code = f"""
import sys
sys.modules["torchvision"] = None
from diffusers_ccld import CCLDPipeline, default_model
pipe = CCLDPipeline.from_pretrained(default_model())
pipe("a cat", image_prompt=pipe("a cat", num_inference_steps=1).images[0], num_inference_steps=1)
print({heavy} & set(sys.modules))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.stdout.strip() == "set()", result.stderr


def test_only_original_reading_unpickles():
    users = {
        path.relative_to(PACKAGE).parts[:2]
        for path in PACKAGE.rglob("*.py")
        if "pickle" in path.read_text() and "import pickle" in path.read_text()
    }
    assert users == {("original", "reading")}


def test_scripts_are_thin_and_nothing_imports_them():
    for script in [*(ROOT / "conversion").glob("*.py")]:
        assert len(script.read_text().splitlines()) < 40
    for path in PACKAGE.rglob("*.py"):
        source = path.read_text()
        assert "sys.path" not in source and "import conversion" not in source


def modules_imported(source: str) -> set[str]:
    """Full names of all modules that a file imports, and of all names that it imports from them."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def belongs_to_a_test_or_benchmark(module: str) -> bool:
    """True for a benchmark, a test module and a conftest; `tests` is the package of diffusers' own tests."""
    first, *rest = module.split(".")
    if first == "tests":
        return False
    return first in BENCHMARKS or any(part == "conftest" or part.startswith("test_") for part in (first, *rest))


@pytest.mark.parametrize("path", sorted((ROOT / "tests").rglob("*.py")), ids=lambda p: p.relative_to(ROOT).as_posix())
def test_tests_import_neither_tests_nor_benchmarks(path):
    assert not {name for name in modules_imported(path.read_text()) if belongs_to_a_test_or_benchmark(name)}


@pytest.mark.parametrize(
    "statement",
    [
        "import performance",
        "from samplers import CASES",
        "from schedulers.test_scheduling_ccld import toy_run",
        "def f():\n    from evaluation import test_metrics",
        "from conftest import pictures",
    ],
)
def test_an_import_from_a_test_or_benchmark_is_found(statement):
    (name,) = modules_imported(statement)
    assert belongs_to_a_test_or_benchmark(name)


def test_files_are_short():
    lengths = {path.relative_to(ROOT).as_posix(): len(path.read_text().splitlines()) for path in SOURCES}
    assert not {path: length for path, length in lengths.items() if length > MAX_LINES}


def lengths_of_functions(path: Path) -> dict[str, int]:
    """Number of lines of each function of a file, without its signature and docstring."""
    lengths = {}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            body = node.body[1:] if ast.get_docstring(node) is not None else node.body
            lengths[node.name] = node.end_lineno - body[0].lineno + 1 if body else 0
    return lengths


def test_functions_are_short():
    lengths = {
        (path.relative_to(ROOT).as_posix(), name): n
        for path in SOURCES
        if ROOT / "tests" not in path.parents
        for name, n in lengths_of_functions(path).items()
    }
    assert not {where: n for where, n in lengths.items() if n > MAX_FUNCTION_LINES}


def test_the_entry_point_imports_only_the_command():
    outside = [path for path in (ROOT / "src").rglob("*.py") if PACKAGE.name not in path.parts]
    assert [path.name for path in outside] == ["ccld_command.py"]
    ours = {name for name in modules_imported(outside[0].read_text()) if name.startswith(PACKAGE.name)}
    assert ours == {"diffusers_ccld.cli.main"}


def test_docstrings_begin_with_a_subject_or_a_verb():
    headless = [
        f"{path.relative_to(ROOT)}: {found}"
        for path in SOURCES
        for found in HEADLESS.findall(path.read_text())
        if path != Path(__file__)
    ]
    assert len(headless) <= MAX_HEADLESS, "\n".join(headless)
