"""diffusers' own test suites, run against our classes from a checkout of diffusers (`make suites DIFFUSERS=…`)."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"

import diffusers_ccld  # noqa: F401 - registers the classes

MARKERS = (
    "lora training attention memory cpu_offload group_offload compile single_file quantization torchao ip_adapter "
    "big_accelerator cache"
)


def pytest_configure(config):
    for marker in MARKERS.split():
        config.addinivalue_line("markers", f"{marker}: a mark of diffusers' own tests")
