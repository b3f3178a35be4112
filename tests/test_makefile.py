"""The Makefile's targets: what is printed, and what each installs."""

import configparser
import contextlib
import json
import os
import pty
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from diffusers_ccld.utils.requirements import MARK
from support.scripts import ROOT

MAKEFILE = (ROOT / "Makefile").read_text()
SETTINGS = configparser.ConfigParser()
SETTINGS.read(ROOT / "setup.cfg")


def make(*arguments, **variables):
    command = ["make", "--no-print-directory", *arguments]
    environment = os.environ | variables
    return subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT, env=environment).stdout


def test_make_alone_prints_the_targets():
    assert make() == make("help")
    targets = [line.split(maxsplit=1) for line in make().splitlines()]
    assert {"help", "paint", "install", "training", "demo", "test", "reference", "clean"} <= {
        name for name, _ in targets
    }
    assert all(text for _, text in targets)


def test_a_target_installs_no_more_than_it_needs(tmp_path):
    names = ("paint", "install", "training", "demo", "test")
    paint, install, training, demo, test = (make("-n", name, f"VENV={tmp_path}/new") for name in names)
    assert "--no-deps --editable ." in paint and "torch" not in paint and "[" not in paint
    assert install.startswith(paint.partition(f"touch {tmp_path}/new/painting")[0]) and "--editable .\n" in install
    assert demo.startswith(install) and '--editable ".[demo]"' in demo and "training" not in demo
    assert training.startswith(install) and '--editable ".[training,compare]"' in training and "demo" not in training
    assert test.startswith(install) and "training" in test


def test_servers_listen_on_this_machine_alone_unless_told_otherwise():
    for target in ("demo", "web"):
        assert "--host 127.0.0.1" in make("-n", target, HOST="mars")  # some shells export it, with the machine's name
        assert "--host 0.0.0.0" in make("-n", target, "HOST=0.0.0.0")


def test_painting_installs_the_versions_of_setup_cfg():
    required = SETTINGS["options"]["install_requires"].split()
    (line,) = (line for line in make("-n", "paint", "VENV=new").splitlines() if "numpy" in line)
    installed = re.findall(r'"(.*?)"', line)
    assert set(installed) < set(required) and len(installed) == len(set(installed))
    assert [line.partition(">=")[0] for line in installed] == re.search("LIGHT := (.*)", MAKEFILE)[1].split()


def test_the_cpu_build_of_torch_is_tried_where_there_is_no_gpu(tmp_path):
    """The ordinary build follows if its index cannot be reached."""
    for uname, gpu, is_tried in (("Linux", "", True), ("Linux", "nvidia-smi", False), ("Darwin", "", False)):
        folder = tmp_path / f"{uname}-{gpu}"
        folder.mkdir()
        for name, text in (("uname", f"echo {uname}"), (gpu, "true")):
            if name:
                (folder / name).write_text(f"#!/bin/sh\n{text}\n")
                (folder / name).chmod(0o755)
        lines = make("-n", "install", "VENV=new", PATH=f"{folder}:/usr/bin:/bin").splitlines()
        (torch,) = [line for line in lines if "--index-url" in line] or [""]
        assert ('"torch>=2.10" "torchvision>=0.25" 2>' in torch and "||" in torch) == is_tried, (uname, gpu)
        assert any("pip install --quiet --editable . ||" in line for line in lines[-6:])


STUB = """#!/bin/sh
case "$*" in
    *--index-url*) echo "ERROR: no such host" >&2; exit $INDEX ;;
    *--editable*) test $ORDINARY = 0 || echo "ERROR: no space left" >&2; exit $ORDINARY ;;
    *check*) test $CHECK = 0 || echo "torchvision needs another torch"; exit $CHECK ;;
esac
"""


SERVER = f"""#!{sys.executable}
import signal
print("ready", flush=True)
try:
    signal.pause()
except KeyboardInterrupt:
    raise SystemExit(130)
"""


def with_stubs(venv, name, text):
    """An environment in which everything for painting is installed, and a program is replaced."""
    painting = next(line for line in make("-n", "install", f"VENV={venv}").splitlines() if "/painting-" in line)
    (venv / "bin").mkdir(parents=True)
    for path in (venv / MARK, painting.removeprefix("touch ")):
        Path(path).touch()
    (venv / "bin" / name).write_text(text)
    (venv / "bin" / name).chmod(0o755)


@pytest.mark.parametrize(
    "index, ordinary, check, expected",
    [
        (0, 0, 0, []),
        (1, 0, 0, ["torch's CPU build cannot be installed from its index; the ordinary build takes 4 GB more."]),
        (
            0,
            0,
            1,
            ["Some versions do not fit one another, so that something may fail:", "torchvision needs another torch"],
        ),
        (1, 1, 0, ["torch's CPU build", "ERROR: no space left", "Before that:", "ERROR: no such host", "make"]),
    ],
)
def test_a_failed_attempt_is_shown_only_if_all_fail(index, ordinary, check, expected, tmp_path):
    venv = tmp_path / "venv"
    with_stubs(venv, "python", STUB)
    codes = {"INDEX": str(index), "ORDINARY": str(ordinary), "CHECK": str(check)}
    command = ["make", "--no-print-directory", "install", f"VENV={venv}", "TORCH=Linux"]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT, env=os.environ | codes
    )
    assert (done.returncode == 0) == (ordinary == 0)
    expected = [f"Installing the whole package into {venv}, which takes minutes.", *expected]
    lines = done.stdout.splitlines()
    assert len(lines) == len(expected) and all(map(str.startswith, lines, expected)), done.stdout
    assert ordinary or not [path for path in venv.iterdir() if path.suffix == ".log"]


def test_an_interrupted_server_is_not_an_error(tmp_path):
    """Ctrl-C at a terminal reaches make, its shell and the server."""
    venv = tmp_path / "venv"
    with_stubs(venv, "ccld", SERVER)
    for line in make("-n", "demo", f"VENV={venv}").splitlines():
        if line.startswith(f"touch {venv}"):
            Path(line.removeprefix("touch ")).touch()
    process, terminal = pty.fork()
    if process == 0:
        os.chdir(ROOT)
        os.execvp("make", ["make", "--no-print-directory", "demo", f"VENV={venv}"])
    shown = b""
    while b"ready" not in shown:
        shown += os.read(terminal, 1000)
    os.write(terminal, b"\x03")
    with contextlib.suppress(OSError):  # the end of a terminal
        while more := os.read(terminal, 1000):
            shown += more
    os.waitpid(process, 0)
    assert b"Error" not in shown and b"***" not in shown, shown


def test_an_environment_that_was_not_made_here_is_kept(tmp_path):
    venv = tmp_path / "mine"
    (venv / "bin").mkdir(parents=True)
    command = ["make", "-n", "paint", f"VENV={venv}"]
    refused = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert refused.returncode == 2 and "rm" not in refused.stdout
    assert f"{venv} was not made here, and stays as it is. Give another: make paint VENV=" in refused.stderr
    cleaned = make("-n", "clean", f"VENV={venv}")
    assert "rm -rf  outputs" in cleaned and f'echo "{venv} stays as it is: it was not made here."\n' in cleaned
    for mark in (MARK, "painting-0123", "built-from-0123"):
        (venv / mark).touch()
        assert f"rm -rf {venv}\n" in make("-n", "paint", f"VENV={venv}")
        assert f"rm -rf {venv} outputs" in make("-n", "clean", f"VENV={venv}")
        (venv / mark).unlink()


def test_a_new_environment_is_marked_before_anything_is_installed():
    lines = make("-n", "paint", "VENV=new").splitlines()
    marked = lines.index(f"touch new/{MARK}")
    assert lines.index("rm -rf new") < marked < next(i for i, line in enumerate(lines) if "-m venv new" in line)


def write_wheel(index, project, version, requirement):
    """An empty package with a requirement, in an index."""
    folder, info, name = index / project, f"{project}-{version}.dist-info", f"{project}-{version}-py3-none-any.whl"
    folder.mkdir(parents=True)
    (folder / "index.html").write_text(f'<!DOCTYPE html><a href="{name}">{name}</a>')
    metadata = f"Metadata-Version: 2.1\nName: {project}\nVersion: {version}\nRequires-Dist: {requirement}\n"
    with zipfile.ZipFile(folder / name, "w") as wheel:
        wheel.writestr(f"{info}/METADATA", metadata)
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")


def test_other_places_of_pip_do_not_replace_the_cpu_build(tmp_path):
    """pip takes the newest version of all its places, and the ordinary build may be newer. The index of the CPU build
    need not have what torch itself requires."""
    for index, torch, torchvision in (("cpu", "2.13.0+cpu", "0.28.0+cpu"), ("extra", "2.99.0", "0.99.0")):
        write_wheel(tmp_path / index, "torch", torch, "nowhere>=77")
        write_wheel(tmp_path / index, "torchvision", torchvision, f"torch=={torch}")
    extra = tmp_path / "extra"
    settings = tmp_path / "pip" / "pip.conf"  # in the place of this machine's own
    settings.parent.mkdir()
    settings.write_text(f"[global]\nextra-index-url = {extra.as_uri()}\nfind-links = {extra / 'torch'}\n")
    options = ("install", f"VENV={tmp_path}", f"CPU_TORCH={(tmp_path / 'cpu').as_uri()}", "TORCH=Linux")
    (tmp_path / MARK).touch()
    (command,) = [line for line in make("-n", *options).splitlines() if "--index-url" in line]
    report = tmp_path / "report.json"
    command = command.partition(" || ")[0].replace(f"{tmp_path}/bin/python", sys.executable)
    environment = {"PATH": os.environ["PATH"], "XDG_CONFIG_DIRS": str(tmp_path), "HOME": str(tmp_path)}
    for variables in ({}, {"PIP_EXTRA_INDEX_URL": extra.as_uri(), "PIP_FIND_LINKS": str(extra / "torch")}):
        options = f" --dry-run --ignore-installed --report {report}"
        subprocess.run(["sh", "-c", command + options], check=True, env=environment | variables)
        installed = [package["metadata"]["version"] for package in json.loads(report.read_text())["install"]]
        assert installed == ["2.13.0+cpu", "0.28.0+cpu"]
