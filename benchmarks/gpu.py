#!/usr/bin/env python3
"""Measures one part of the plan for a GPU; `gpu.sh` runs them all.

    python benchmarks/gpu.py equality --output FOLDER
    python benchmarks/gpu.py network --output FOLDER --model teacher

Weights are random: 105M student and 1.2B teacher of the published sizes, kl-f8 autoencoder, images of 256×256. Every
row is written as soon as it is measured. A row that fails, for want of memory say, holds the error. --dry-run measures
small networks once, on the CPU.
"""

import argparse
import copy
import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from performance import KL_F8, SIDE, count_operations, describe_machine, matrix_product_peak, medians_in_turn
from torch import nn

from diffusers_ccld import CCLDScheduler, CCLDUNet2DConditionModel
from diffusers_ccld.cli import run_reporting_errors
from diffusers_ccld.evaluation.tables import markdown_table
from diffusers_ccld.training.losses import v_prediction_losses
from diffusers_ccld.utils.arguments import ArgumentParser
from diffusers_ccld.utils.errors import first_line
from diffusers_ccld.utils.files import write_text

WIDTHS = {"student": (192, 192, 384, 384), "teacher": (768, 768, 1536, 1536)}
SMALL_WIDTHS = {"student": (64, 64, 64, 64), "teacher": (64, 64, 128, 128)}
SMALL_KL = {**KL_F8, "block_out_channels": (32, 32, 32, 32)}
# Name of a precision, type of the weights, and of the products of float32 matrices.
PRECISIONS = {
    "fp32": (torch.float32, "ieee"),
    "tf32": (torch.float32, "tf32"),
    "bf16": (torch.bfloat16, "ieee"),
}
MODES = {"eager": None, "compiled": "default", "CUDA graphs": "reduce-overhead"}
TOLERANCE = 2e-3  # of float32 on the GPU against float32 on the CPU


class Table:
    """Rows of one part, rewritten to its file with each new row.

    Args:
        title: Heading.
        path: The file, Markdown.
    """

    def __init__(self, title: str, path: Path):
        self.title, self.path, self.rows = title, path, {}

    def add(self, name: str, measure: Callable[[], dict[str, str | float]]) -> None:
        """Measures a row. An error of the device becomes the row."""
        try:
            self.rows[name] = measure()
        except (RuntimeError, ValueError) as error:  # out of memory, and compilers that fail
            self.rows[name] = {"error": first_line(error)[:80]}
        torch.cuda.empty_cache() if torch.cuda.is_available() else None
        table = f"### {self.title}\n\n{markdown_table(self.rows, '{:.4g}'.format)}\n"
        write_text(self.path, table)
        print(f"{name}: {self.rows[name]}", flush=True)


@contextmanager
def float32_products(precision: str) -> Iterator[None]:
    """Context in which the GPU multiplies float32 matrices exactly ("ieee") or as "tf32"."""
    backends = torch.backends.cuda.matmul, torch.backends.cudnn.conv
    before = [backend.fp32_precision for backend in backends]
    try:
        for backend in backends:
            backend.fp32_precision = precision
        yield
    finally:
        for backend, value in zip(backends, before):
            backend.fp32_precision = value


class Plan:
    """The measurements; each method is one part.

    Args:
        options: The command line.
    """

    def __init__(self, options: argparse.Namespace):
        self.options, self.small = options, options.dry_run
        self.device = torch.device("cpu" if options.dry_run else "cuda")
        self.repeats = 1 if options.dry_run else 7
        self.batch_sizes = (1, 2) if options.dry_run else (1, 64)
        self.precisions = {"fp32": PRECISIONS["fp32"]} if options.dry_run else PRECISIONS
        self.modes = {"eager": None} if options.dry_run else MODES

    def table(self, title: str) -> Table:
        """The table of this part."""
        name = f"{self.options.part}-{self.options.model}.md"
        return Table(f"{title} ({self.options.model})", self.options.output / name)

    def unet(self) -> CCLDUNet2DConditionModel:
        """The U-Net, with the same weights each time, on the CPU."""
        torch.manual_seed(0)
        widths = (SMALL_WIDTHS if self.small else WIDTHS)[self.options.model]
        return CCLDUNet2DConditionModel(block_out_channels=widths).eval()

    def vae(self) -> AutoencoderKL:
        """The autoencoder, on the CPU."""
        torch.manual_seed(0)
        return AutoencoderKL(**(SMALL_KL if self.small else KL_F8)).eval()

    def network_inputs(self, num_samples: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Latents, timesteps and embeddings of a call, on the CPU."""
        generator = torch.Generator().manual_seed(1)
        latents = torch.randn(num_samples, 4, SIDE, SIDE, generator=generator)
        return latents, torch.full((num_samples,), 499.0), torch.randn(num_samples, 512, generator=generator)

    def seconds(self, run: Callable[[], object]) -> float:
        """Median seconds of a call."""
        return medians_in_turn({"": run}, self.repeats, self.device, self.options.part)[""]

    def peak(self, precision: str) -> float:
        """Operations a second of a large matrix product in a precision."""
        dtype, products = self.precisions[precision]
        with float32_products(products):
            return matrix_product_peak(dtype, self.device, 256 if self.small else 8192)

    # The parts

    def machine(self) -> None:
        """The device, and the speed of its matrix products."""
        table = self.table("Machine")
        table.add("device", lambda: describe_machine(self.device))
        for precision in self.precisions:
            table.add(f"matrix product, {precision}", lambda p=precision: {"TFLOP/s": self.peak(p) / 1e12})

    def equality(self) -> None:
        """Largest differences from the CPU in float32."""
        table = self.table("Differences from the CPU in float32")
        inputs, unet = self.network_inputs(2), self.unet()
        latents, vae = inputs[0][:1], self.vae()
        with torch.no_grad():
            expected = {"U-Net": unet(*inputs).sample, "decoder": vae.decode(latents).sample}
        for precision, (dtype, products) in self.precisions.items():

            def measure(dtype=dtype, products=products, precision=precision):
                with torch.no_grad(), float32_products(products):
                    on_device = [tensor.to(self.device) for tensor in inputs]
                    network = copy.deepcopy(unet).to(self.device, dtype)
                    made = network(on_device[0].to(dtype), on_device[1], on_device[2].to(dtype)).sample
                    decoder = copy.deepcopy(vae).to(self.device, dtype)
                    pixels = decoder.decode(latents.to(self.device, dtype)).sample
                found = {"U-Net": made, "decoder": pixels}
                row = {name: (found[name].float().cpu() - expected[name]).abs().max().item() for name in expected}
                verdict = "equal" if max(row.values()) < TOLERANCE else "different"
                return row | ({"verdict": verdict} if precision == "fp32" else {})

            table.add(precision, measure)

    def network(self) -> None:
        """Seconds of a guided call of the U-Net."""
        table = self.table("One guided call of the U-Net")
        for batch, precision, mode in itertools.product(self.batch_sizes, self.precisions, self.modes):
            table.add(f"{batch} images, {precision}, {mode}", partial(self._network_row, batch, precision, mode))

    def _network_row(self, batch, precision, mode):
        dtype, products = self.precisions[precision]
        latents, timesteps, embeds = (tensor.to(self.device) for tensor in self.network_inputs(2 * batch))
        unet, latents, embeds = self.unet().to(self.device, dtype), latents.to(dtype), embeds.to(dtype)
        with torch.no_grad(), float32_products(products):
            operations = count_operations(lambda: unet(latents, timesteps, embeds))
            network = self._in_mode(unet, mode)
            seconds = self.seconds(lambda: network(latents, timesteps, embeds))
        return {
            "seconds": seconds,
            "images a second and step": batch / seconds,
            "TFLOP/s": operations / seconds / 1e12,
            "share of the matrix product": operations / seconds / self.peak(precision),
        }

    def _in_mode(self, module: nn.Module, mode: str) -> Callable:
        torch._dynamo.reset()
        return module if self.modes[mode] is None else torch.compile(module, mode=self.modes[mode])

    def decode(self) -> None:
        """Seconds of decoding."""
        table = self.table("Decoding")
        for batch, precision, mode in itertools.product(self.batch_sizes, self.precisions, self.modes):
            table.add(f"{batch} images, {precision}, {mode}", partial(self._decode_row, batch, precision, mode))

    def _decode_row(self, batch, precision, mode):
        dtype, products = self.precisions[precision]
        vae = self.vae().to(self.device, dtype)
        latents = self.network_inputs(batch)[0].to(self.device, dtype)
        vae.decoder.forward = self._in_mode(vae.decoder.forward, mode)
        with torch.no_grad(), float32_products(products):
            seconds = self.seconds(lambda: vae.decode(latents))
        return {"seconds": seconds, "images a second": batch / seconds}

    def training(self) -> None:
        """Seconds of a training step from cached latents, AdamW included."""
        table = self.table("A training step from a cache")
        for batch, precision in itertools.product(self.batch_sizes, self.precisions):
            table.add(f"{batch} images, {precision}", partial(self._training_row, batch, precision))

    def _training_row(self, batch, precision):
        dtype, products = self.precisions[precision]
        unet, scheduler = self.unet().to(self.device).train(), CCLDScheduler()
        optimizer = torch.optim.AdamW([p for p in unet.parameters() if p.requires_grad], lr=3e-5, fused=not self.small)
        latents, timesteps, embeds = (tensor.to(self.device) for tensor in self.network_inputs(batch))
        noise = torch.randn_like(latents)

        def step():
            noisy = scheduler.add_noise(latents, noise, timesteps)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
                prediction = unet(noisy, timesteps, embeds).sample
            target = scheduler.get_velocity(latents, noise, timesteps)
            v_prediction_losses(prediction.float(), target).mean().backward()
            optimizer.step()
            optimizer.zero_grad()

        with float32_products(products):
            seconds = self.seconds(step)
        return {"seconds": seconds, "images a second": batch / seconds}


PARTS = ("machine", "equality", "network", "decode", "training")


def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("part", choices=PARTS, help="part to measure")
    add("--model", choices=list(WIDTHS), default="student", help="size of the U-Net (default: %(default)s)")
    add("--output", type=Path, required=True, metavar="DIR", help="folder for the table")
    add("--dry-run", action="store_true", help="measure small networks once, on the CPU")
    options = parser.parse_args(argv)
    if not options.dry_run and not torch.cuda.is_available():
        raise ValueError("No GPU was found. Try the plan on the CPU with --dry-run.")
    options.output.mkdir(parents=True, exist_ok=True)
    getattr(Plan(options), options.part)()


if __name__ == "__main__":
    raise SystemExit(run_reporting_errors(main))
