"""Commands import no library beyond the package's requirements and those of their extra."""

import ast
import configparser
import sys
from importlib.util import resolve_name
from pathlib import Path

import pytest

import diffusers_ccld
from support.environments import installed_with, modules_of_packages
from support.scripts import ROOT

SOURCE = Path(diffusers_ccld.__file__).parents[1]
SETTINGS = configparser.ConfigParser()
SETTINGS.read(ROOT / "setup.cfg")


def requirements(extra=None):
    section, name = ("options", "install_requires") if extra is None else ("options.extras_require", extra)
    return SETTINGS[section][name].split()


def path_of(module):
    """The file of a module of this package; `None` for anything else."""
    place = SOURCE.joinpath(*module.split("."))
    return next((path for path in (place.with_suffix(".py"), place / "__init__.py") if path.is_file()), None)


def imported(module, everywhere):
    """The modules that one of this package's modules imports: whenever it is imported, or also inside its functions.
    What it tries to import, or imports under a condition, it can do without."""
    path = path_of(module)
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    waiting, found = [ast.parse(path.read_text(encoding="utf-8"))], {package}
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            source = f"{'.' * node.level}{node.module or ''}"
            source = resolve_name(source, package).rstrip(".")
            found |= {source, *(f"{source}.{alias.name}" for alias in node.names if path_of(f"{source}.{alias.name}"))}
        elif everywhere or not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            waiting += [child for child in ast.iter_child_nodes(node) if not may_fail(child)]
    return found


def may_fail(statement):
    """True for the conditions and attempts in which a module imports what it can do without."""
    suppresses = isinstance(statement, ast.With) and "suppress" in ast.unparse(statement.items[0])
    return suppresses or isinstance(statement, (ast.If, ast.Try))


def libraries_of(entries):
    """The libraries without which a command does not run, of its modules and of all that they import."""
    reached, waiting, libraries = set(), list(entries), set()
    while waiting:
        module = waiting.pop()
        if module in reached:
            continue
        reached.add(module)
        if path_of(module) is None:
            libraries.add(module.partition(".")[0])
        else:
            waiting += imported(module, everywhere=module in entries)
    return libraries - sys.stdlib_module_names


def modules_in(folder):
    return {f"diffusers_ccld.{folder}.{path.stem}" for path in (SOURCE / "diffusers_ccld" / folder).glob("[!_]*.py")}


OF_EXTRAS = {
    "demo": {"diffusers_ccld.cli.demo", *modules_in("demo")},
    "compare": {"diffusers_ccld.cli.compare", "diffusers_ccld.evaluation.comparison"},
    "onnx": {"diffusers_ccld.cli.export_onnx", "diffusers_ccld.onnx.export"},
    "training": {"diffusers_ccld.cli.measure_scale"},
    None: {"diffusers_ccld", *modules_in("cli")},
}


@pytest.mark.parametrize("extra", OF_EXTRAS)
def test_a_command_needs_no_more_than_its_extra(extra):
    others = set().union(*(modules for name, modules in OF_EXTRAS.items() if name))
    libraries = libraries_of(OF_EXTRAS[extra] - (set() if extra else others))
    installed = installed_with([*requirements(), *(requirements(extra) if extra else ())])
    assert {"torch", "diffusers", "PIL"} <= libraries
    assert not {name for name in libraries if not modules_of_packages().get(name, set()) & installed}
