"""The Makefile's targets: what is printed, and what each installs."""

import subprocess

from support.scripts import ROOT


def make(*arguments):
    return subprocess.run(
        ["make", "--no-print-directory", *arguments], capture_output=True, text=True, check=True, cwd=ROOT
    ).stdout


def test_make_alone_prints_the_targets():
    assert make() == make("help")
    targets = [line.split(maxsplit=1) for line in make().splitlines()]
    assert {"help", "paint", "demo", "test", "reference", "clean"} <= {name for name, _ in targets}
    assert all(text for _, text in targets)


def test_painting_and_the_demo_install_no_more_than_they_need(tmp_path):
    installs = {target: make("-n", target, f"VENV={tmp_path}/new") for target in ("paint", "demo", "test")}
    assert "--editable ." in installs["paint"] and "[" not in installs["paint"].split("--editable")[1]
    assert '--editable ".[demo]"' in installs["demo"] and "training" not in installs["demo"]
    assert "training" in installs["test"]
