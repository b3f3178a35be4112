"""The Makefile's targets: what is printed, and what each installs."""

import configparser
import os
import re
import subprocess

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
    assert install.startswith(paint.partition("touch")[0]) and "--editable .\n" in install
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
        assert ('"torch>=2.10" ||' in torch) == is_tried, (uname, gpu)
        assert lines[-2].endswith("pip install --quiet --editable .")
