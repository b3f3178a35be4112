"""Windows and macOS, as far as Linux can tell: nothing needs a module, a function or an encoding that one lacks."""

import ast
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from diffusers_ccld.original import folder as conversion_folder
from diffusers_ccld.utils import memory

ROOT = Path(__file__).parents[1]
SOURCES = sorted(
    path for part in ("src", "training", "conversion", "benchmarks") for path in (ROOT / part).rglob("*.py")
)

# Modules and functions that Python has on POSIX alone.
POSIX_MODULES = {"resource", "fcntl", "pwd", "grp", "termios", "tty", "pty", "syslog", "readline", "posix", "crypt"}
POSIX_NAMES = {
    "os": {
        *("fork", "forkpty", "wait", "wait3", "wait4", "waitid", "getuid", "geteuid", "getgid", "getegid", "getpgid"),
        *("getpgrp", "getsid", "setsid", "setuid", "setgid", "setpgid", "killpg", "nice", "getpriority", "chown"),
        *("mkfifo", "mknod", "statvfs", "sysconf", "getloadavg", "uname", "sched_getaffinity", "sync", "chroot"),
        *("posix_spawn", "posix_fadvise", "posix_fallocate", "pread", "pwrite", "sendfile", "O_NOFOLLOW", "O_DIRECT"),
    },
    "signal": {
        *("SIGKILL", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGALRM", "SIGPIPE", "SIGCHLD", "SIGCONT", "SIGSTOP"),
        *("alarm", "pause", "setitimer", "pthread_kill", "pthread_sigmask", "sigwait"),
    },
    "time": {"tzset"},
}

IMPORT_ALL = """
import importlib, importlib.util, os, pkgutil, signal, sys
from pathlib import Path

import accelerate, datasets, diffusers, gradio, matplotlib, peft, torch, torchmetrics, transformers  # need them
import torch.utils.data, open_clip, huggingface_hub, PIL.Image, yaml, filelock, psutil, tqdm.auto, ftfy, safetensors

for name in {modules}:
    sys.modules[name] = None
for module, names in {names}.items():
    for name in names:
        if hasattr(sys.modules[module], name):
            delattr(sys.modules[module], name)

import diffusers_ccld

names = [m.name for m in pkgutil.walk_packages(diffusers_ccld.__path__, "diffusers_ccld.") if "__main__" not in m.name]
for name in names:
    importlib.import_module(name)
scripts = [path for folder in ("training", "conversion") for path in (Path({root!r}) / folder).glob("*.py")]
for path in scripts:
    spec = importlib.util.spec_from_file_location("script_" + path.stem, path)
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
print(len(names), len(scripts))
"""


def test_every_module_is_imported_without_what_posix_alone_has():
    code = IMPORT_ALL.format(
        modules=sorted(POSIX_MODULES), names={k: sorted(v) for k, v in POSIX_NAMES.items()}, root=str(ROOT)
    )
    result = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]
    num_modules, num_scripts = map(int, result.stdout.split()[-2:])
    assert num_modules > 100 and num_scripts > 5


def breaches(source: str) -> list[str]:
    """What a source needs that one platform lacks, by line. Imports inside `try` are optional."""
    tree, found = ast.parse(source), []
    optional = {id(node) for t in ast.walk(tree) if isinstance(t, ast.Try) for s in t.body for node in ast.walk(s)}
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)) and id(node) not in optional:
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            found += [f"{node.lineno}: import {name}" for name in modules if name in POSIX_MODULES]
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if node.attr in POSIX_NAMES.get(node.value.id, ()):
                found.append(f"{node.lineno}: {node.value.id}.{node.attr}")
        elif (
            isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and node.value.startswith(("/proc/", "/dev/"))
        ):
            found.append(f"{node.lineno}: {node.value}")
        elif isinstance(node, ast.Call):
            found += _without_encoding(node)
    return found


def _without_encoding(node):
    """Text files are UTF-8 here; the default of Windows is another encoding."""
    name = getattr(node.func, "attr", getattr(node.func, "id", ""))
    is_given = any(keyword.arg == "encoding" for keyword in node.keywords)
    if name == "read_text" and isinstance(node.func, ast.Attribute) and not is_given:
        return [f"{node.lineno}: read_text without encoding"]
    if name == "write_text" and isinstance(node.func, ast.Attribute) and not is_given:
        return [f"{node.lineno}: write_text without encoding"]
    modes = [arg.value for arg in node.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str)]
    if name == "open" and modes and set(modes[-1]) <= set("rwax+t") and not is_given:
        return [f"{node.lineno}: open without encoding"]
    return []


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_nothing_needs_one_platform(path):
    assert not breaches(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "statement",
    [
        "import resource",
        "def f():\n    import fcntl",
        "from pwd import getpwnam",
        "os.getuid()",
        "signal.signal(signal.SIGHUP, handler)",
        "open('/proc/self/status')",
        "path.read_text()",
        "path.write_text('a')",
        "path.open('a')",
    ],
)
def test_what_one_platform_lacks_is_found(statement):
    assert breaches(statement)


def test_what_is_optional_is_not_found():
    assert not breaches("try:\n    import resource\nexcept ImportError:\n    resource = None")
    assert not breaches(
        "path.read_text(encoding='utf-8'), path.open('rb'), write_text(path, 'a'), cache.open('folder')"
    )


@pytest.mark.parametrize("platform, unit", [("linux", 1024), ("freebsd14", 1024), ("darwin", 1)])
def test_units_of_the_peak_memory(platform, unit, monkeypatch):
    usage = SimpleNamespace(RUSAGE_SELF=0, getrusage=lambda who: SimpleNamespace(ru_maxrss=5000))
    monkeypatch.setattr(memory, "resource", usage)
    monkeypatch.setattr(memory.sys, "platform", platform)
    assert memory.peak_memory() == 5000 * unit


def test_peak_memory_on_windows(monkeypatch):
    monkeypatch.setattr(memory, "resource", None)
    monkeypatch.setattr(
        memory.psutil, "Process", lambda: SimpleNamespace(memory_info=lambda: SimpleNamespace(peak_wset=7))
    )
    assert memory.peak_memory() == 7


def test_components_are_copied_where_links_are_not_allowed(tmp_path, monkeypatch):
    (tmp_path / "output" / "unet").mkdir(parents=True)
    (tmp_path / "output" / "unet" / "config.json").write_text("{}")
    (tmp_path / "new").mkdir()

    def refused(*_, **__):
        raise OSError("A required privilege is not held by the client")

    monkeypatch.setattr(Path, "symlink_to", refused)
    conversion_folder.link_existing(tmp_path / "new", tmp_path / "output")
    assert (tmp_path / "new" / "unet" / "config.json").read_text() == "{}"
    assert not (tmp_path / "new" / "unet").is_symlink()
