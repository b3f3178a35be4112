"""The rules that keep the package easy to read: imports go one way, and sampling needs no training extras."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import diffusers_ccld

PACKAGE = Path(diffusers_ccld.__file__).parent
ROOT = Path(__file__).parents[1]


def siblings(module: str) -> set[str]:
    """Modules of the package that a module imports, anywhere in it."""
    tree = ast.parse((PACKAGE / f"{module}.py").read_text())
    relative = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level == 1]
    return {name for node in relative for name in ([node.module] if node.module else [a.name for a in node.names])}


@pytest.mark.parametrize("module", ["noise_schedule", "losses", "unet_ccld", "configuration_cloob", "pictures"])
def test_foundations_import_no_sibling(module):
    assert not siblings(module)


def test_the_scheduler_stands_on_the_noise_schedule_and_its_solvers():
    assert siblings("scheduling_ccld") == {"noise_schedule", "solvers"}
    assert siblings("solvers") == {"noise_schedule"}


TRAINING_MODULES = [
    "caption_data",
    "compare",
    "data",
    "distillation",
    "latent_cache",
    "latent_scale",
    "pictures",
    "reconstruction_losses",
    "reference_images",
    "student",
    "training_checkpoints",
    "training_config",
    "training_data",
    "training_log",
    "training_pipeline",
    "training_randomness",
    "training_result",
    "training_run",
    "training_utils",
    "vocabulary",
]


@pytest.mark.parametrize("module", TRAINING_MODULES)
def test_training_modules_import_no_pipeline(module):
    assert not any(name.startswith("pipeline") for name in siblings(module))


def test_sampling_needs_no_training_module():
    samplers = {path.stem for path in PACKAGE.glob("*.py")} - set(TRAINING_MODULES)
    assert not {name for module in samplers for name in siblings(module)} & set(TRAINING_MODULES)


def test_importing_the_package_loads_nothing_that_sampling_does_not_need():
    heavy = "{'open_clip', 'datasets', 'gradio', 'matplotlib', 'cv2', 'torchmetrics'}"
    code = f"import sys, diffusers_ccld; print({heavy} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"


def test_only_one_module_unpickles():
    users = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        if "pickle" in path.read_text() and "import pickle" in path.read_text()
    }
    assert users == {"original/reading.py"}


def test_scripts_are_thin_and_nothing_imports_them():
    for script in [*(ROOT / "conversion").glob("*.py")]:
        assert len(script.read_text().splitlines()) < 40
    for path in PACKAGE.rglob("*.py"):
        source = path.read_text()
        assert "sys.path" not in source
        assert "import conversion" not in source and "import training" not in source
