#!/usr/bin/env python3
"""Times sampling and training with networks of the published sizes, also in the original's code if it is given.

    python benchmarks/performance.py --output performance.json
    python benchmarks/performance.py --original CHECKOUT      # of JD-P/cloob-latent-diffusion with its submodules
    python benchmarks/performance.py --device cuda --compile --batch-size 64 --parts network

The weights are random and the same on both sides: 105M U-Net, kl-f8 autoencoder, CLOOB ViT-B/16, images of 256×256.
The candidates take turns in one process. Times are medians, and ratios are ratios of medians. The results are in
docs/performance.md.
"""

import argparse
import copy
import json
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import diffusers
import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from original_code import Original, import_original
from torch.utils.flop_counter import FlopCounterMode
from tqdm.auto import tqdm

from diffusers_ccld import (
    CCLDPipeline,
    CCLDScheduler,
    CCLDUNet2DConditionModel,
    CLOOBConfig,
    CLOOBImageProcessor,
    CLOOBTextModelWithProjection,
    CLOOBTokenizer,
    CLOOBVisionModelWithProjection,
)
from diffusers_ccld.cli import run_reporting_errors
from diffusers_ccld.data.encoding import encode_images
from diffusers_ccld.evaluation.tables import markdown_table
from diffusers_ccld.inference.devices import DTYPES, usable_device
from diffusers_ccld.inference.loading import load_pipeline
from diffusers_ccld.inference.optimization import compile_networks
from diffusers_ccld.models.inference_autoencoder import use_inference_autoencoder
from diffusers_ccld.original.tensors.cloob import load_cloob_config
from diffusers_ccld.schedulers.scheduling_ccld import RECOMMENDED_ALGORITHM, usual_num_steps
from diffusers_ccld.training.ema import EMA
from diffusers_ccld.training.inputs import TrainingTimes, draw_for_training, make_inputs
from diffusers_ccld.training.losses import v_prediction_losses
from diffusers_ccld.utils.arguments import ArgumentParser
from diffusers_ccld.utils.files import write_text

CLOOB = "cloob_laion_400m_vit_b_16_16_epochs"
LATENT_SCALE = 2.55
PROMPT, GUIDANCE_SCALE, STEPS = "a sunset landscape painting, oil on canvas", 3.0, 50
FAST = {"num_inference_steps": 5, "guidance_interval": (0.3, 0.8)}  # the fast setting of docs/performance.md
SIDE = 32
PARTS = ("network", "sampling", "bundled", "training")
KL_F8 = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
    "scaling_factor": 1 / LATENT_SCALE,
}


# What training/distill_decoder.py makes of a kl-f8 autoencoder.
SMALL_DECODER = {
    "latent_channels": 4,
    "encoder_block_out_channels": (64,) * 4,
    "decoder_block_out_channels": (64,) * 4,
    "num_encoder_blocks": (1, 3, 3, 3),
    "num_decoder_blocks": (3, 3, 3, 1),
}


def make_pipeline(seed: int = 0) -> CCLDPipeline:
    """Makes a pipeline of the published sizes with random weights."""
    torch.manual_seed(seed)
    cloob: CLOOBConfig = load_cloob_config(CLOOB)
    pipe = CCLDPipeline(
        vae=AutoencoderKL(**KL_F8).eval(),
        text_encoder=CLOOBTextModelWithProjection(cloob.text_config).eval(),
        tokenizer=CLOOBTokenizer(),
        unet=CCLDUNet2DConditionModel().eval(),
        scheduler=CCLDScheduler(),
        image_encoder=CLOOBVisionModelWithProjection(cloob.vision_config).eval(),
        feature_extractor=CLOOBImageProcessor(),
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def copy_of(pipe: CCLDPipeline, device: torch.device, dtype: torch.dtype = torch.float32) -> CCLDPipeline:
    """Copies a pipeline."""
    parts = {name: copy.deepcopy(part) for name, part in pipe.components.items()}
    made = CCLDPipeline(**parts).to(device, dtype)
    made.set_progress_bar_config(disable=True)
    return made


def describe_machine(device: torch.device) -> dict[str, str]:
    """Facts about the device and the libraries."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return {
        "device": name,
        "threads": str(torch.get_num_threads()),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
    }


class Ours:
    """Our code, with the same methods as `Original`.

    Args:
        pipe: The pipeline, on its device and in its precision.
        options: Arguments of every call that replace the common ones.
        autocast: True to train in bfloat16.
    """

    def __init__(self, pipe: CCLDPipeline, options: dict[str, object] | None = None, autocast: bool = False):
        self.pipe, self.options, self.autocast = pipe, options or {}, autocast
        self.times = TrainingTimes(0)

    @torch.no_grad()
    def network(self, latents: torch.Tensor, t: torch.Tensor, embeds: torch.Tensor) -> torch.Tensor:
        """Calls the U-Net once."""
        dtype = self.pipe.unet.dtype
        return self.pipe.unet(latents.to(dtype), 1000 * t - 1, embeds.to(dtype), return_dict=False)[0]

    @torch.no_grad()
    def text(self, prompt: str) -> torch.Tensor:
        """Embeds a prompt."""
        return self.pipe.encode_prompt(prompt)[0]

    def loop(self, noise: torch.Tensor, embeds: torch.Tensor, num_steps: int, guidance_scale: float) -> torch.Tensor:
        """Samples latents from noise."""
        arguments = {"num_inference_steps": num_steps, "guidance_scale": guidance_scale, **self.options}
        return self.pipe(prompt_embeds=embeds, latents=noise, output_type="latent", **arguments).images

    @torch.no_grad()
    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Decodes latents to pixels in [−1, 1]."""
        return self.pipe.decode_latents(latents)

    def start_training(self) -> None:
        """Makes the optimizer and the EMA."""
        use_inference_autoencoder(self.pipe.vae)
        self.pipe.unet.train().requires_grad_(True)
        trained = [p for name, p in self.pipe.unet.named_parameters() if "fourier" not in name]
        self.optimizer = torch.optim.AdamW(trained, lr=3e-5, weight_decay=0.01)
        self.ema = EMA(self.pipe.unet)

    @torch.no_grad()
    def encode(self, pixels: torch.Tensor) -> object:
        """Encodes images for training, to what a cache holds."""
        with torch.autocast(self.pipe.device.type, torch.bfloat16, enabled=self.autocast):
            return encode_images(self.pipe.vae, self.pipe.image_encoder, self.pipe.feature_extractor, pixels)

    def training_step(self, encoded: object) -> None:
        """One training step on encoded images."""
        count = len(encoded[0])
        draws = draw_for_training(0, self.times, range(count), (4, SIDE, SIDE), 0.2).to(self.pipe.device)
        inputs = make_inputs(encoded, draws, self.pipe.scheduler, self.pipe.vae.config.scaling_factor)
        with torch.autocast(self.pipe.device.type, torch.bfloat16, enabled=self.autocast):
            prediction = self.pipe.unet(inputs.noisy_latents, inputs.timesteps, inputs.condition).sample
        v_prediction_losses(prediction.float(), inputs.target).mean().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.ema.update(0.99)


def synchronised(run: Callable[[], object], device: torch.device) -> float:
    """Seconds that a call takes, including the device's work."""
    began = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began


def medians_in_turn(
    runs: dict[str, Callable[[], object]], repeats: int, device: torch.device, what: str
) -> dict[str, float]:
    """Median seconds of each function; they take turns, after one run of each to warm up."""
    seconds = {name: [] for name in runs}
    for i in tqdm(range(repeats + 1), desc=what, unit="round", leave=False):
        for name, run in runs.items():
            taken = synchronised(run, device)
            if i > 0:
                seconds[name].append(taken)
    return {name: statistics.median(values) for name, values in seconds.items()}


def matrix_product_peak(dtype: torch.dtype, device: torch.device, size: int) -> float:
    """Floating-point operations a second of a product of two square matrices."""
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    seconds = medians_in_turn({"product": lambda: a @ b}, 9, device, f"Peak of {dtype}")["product"]
    return 2 * size**3 / seconds


def count_operations(run: Callable[[], object]) -> int:
    """Number of floating-point operations of a call, as PyTorch counts them: in its own operators."""
    with FlopCounterMode(display=False) as counter, torch.backends.mkldnn.flags(enabled=False):
        run()
    return counter.get_total_flops()


class Report:
    """Prints tables of results as they come, and rewrites a JSON file with all of them.

    Args:
        path: The file, if there is one.
    """

    def __init__(self, path: Path | None):
        self.path, self.sections = path, {}

    def add(self, title: str, rows: dict[str, dict[str, str | float]]) -> None:
        """Adds a table: for each row its cells by column."""
        print(f"\n### {title}\n\n{markdown_table(rows, '{:.4g}'.format)}", flush=True)
        self.sections[title] = rows
        if self.path is not None:
            write_text(self.path, json.dumps(self.sections, indent=1, ensure_ascii=False))


def as_row(seconds: dict[str, float]) -> dict[str, float]:
    """A row of medians, and of the first median divided by each other one."""
    first = next(iter(seconds.values()))
    return {**seconds, **{f"× {name}": first / value for name, value in list(seconds.items())[1:]}}


def largest_difference(first: torch.Tensor, second: torch.Tensor) -> float:
    """Largest absolute difference of two tensors."""
    return (first.float().cpu() - second.float().cpu()).abs().max().item()


def measure_network(systems: dict, batch_size: int, repeats: int, device: torch.device, report: Report) -> None:
    """Times one call of the U-Net for a guided batch, which has twice as many samples."""
    latents = torch.randn(2 * batch_size, 4, SIDE, SIDE, device=device)
    t, embeds = torch.full((2 * batch_size,), 0.5, device=device), torch.randn(2 * batch_size, 512, device=device)
    runs = {name: partial(system.network, latents, t, embeds) for name, system in systems.items()}
    outputs = {name: run() for name, run in runs.items()}
    seconds = medians_in_turn(runs, repeats, device, "Network")
    operations = count_operations(next(run for name, run in runs.items() if name != "original"))
    first = next(iter(outputs.values()))
    size = 2048 if device.type == "cpu" else 8192
    peaks = {dtype: matrix_product_peak(dtype, device, size) for dtype in (torch.float32, torch.bfloat16)}
    rows = {}
    for name, taken in seconds.items():
        is_half = name != "original" and systems[name].pipe.unet.dtype == torch.bfloat16
        rows[name] = {
            "seconds": taken,
            "times as fast": next(iter(seconds.values())) / taken,
            "share of the matrix products' peak": operations
            / taken
            / peaks[torch.bfloat16 if is_half else torch.float32],
            "largest difference": largest_difference(outputs[name], first),
        }
    report.add(f"One call of the U-Net, {2 * batch_size} samples of {operations / batch_size / 2e9:.1f} GFLOP", rows)


def measure_sampling(systems: dict, repeats: int, device: torch.device, report: Report) -> None:
    """Times one picture: the text, the sampling loop, decoding, and all together."""
    noise = torch.randn(1, 4, SIDE, SIDE, device=device)
    parts = {"text": {}, "loop": {}, "decoding": {}}
    results = {}
    for name, system in systems.items():
        embeds = system.text(PROMPT)
        latents = system.loop(noise, embeds, STEPS, GUIDANCE_SCALE)
        results[name] = (embeds, latents, system.decode(latents))
        parts["text"][name] = partial(system.text, PROMPT)
        parts["loop"][name] = partial(system.loop, noise, embeds, STEPS, GUIDANCE_SCALE)
        parts["decoding"][name] = partial(system.decode, latents)
    medians = {part: medians_in_turn(runs, repeats, device, part.capitalize()) for part, runs in parts.items()}
    medians["all"] = {name: sum(of_part[name] for of_part in medians.values()) for name in systems}
    report.add("A picture of 256 × 256, seconds", {part: as_row(seconds) for part, seconds in medians.items()})
    first = next(iter(results.values()))
    report.add(
        "Largest differences from the first",
        {
            name: dict(zip(("text", "latents", "pixels"), map(largest_difference, result, first)))
            for name, result in results.items()
        },
    )


def measure_bundled(precisions: Sequence[str], repeats: int, device: torch.device, report: Report) -> None:
    """Times one picture of the bundled model from prompt to PIL image, without loading."""
    runs = {}
    for precision in precisions:
        pipe = load_pipeline(None, precision, device)
        pipe.set_progress_bar_config(disable=True)
        runs[precision] = partial(pipe, PROMPT, guidance_scale=GUIDANCE_SCALE)
    report.add(
        "A picture of the bundled model, seconds",
        {"": as_row(medians_in_turn(runs, repeats, device, "Bundled model"))},
    )


def measure_training(systems: dict, batch_size: int, repeats: int, device: torch.device, report: Report) -> None:
    """Times training steps, from pixels and from a cache."""
    pixels = torch.randint(256, (batch_size, 3, 8 * SIDE, 8 * SIDE), dtype=torch.uint8, device=device)
    from_pixels, from_cache = {}, {}
    for name, system in systems.items():
        system.start_training()
        if name == "original":
            from_pixels[name] = partial(system.training_step, pixels.float() / 255)
            from_cache[name] = from_pixels[name]  # the original does not cache
        else:
            encoded = system.encode(pixels)
            from_pixels[name] = lambda system=system: system.training_step(system.encode(pixels))
            from_cache[name] = partial(system.training_step, encoded)
    rows = {
        "from pixels": as_row(medians_in_turn(from_pixels, repeats, device, "Training from pixels")),
        "from a cache": as_row(medians_in_turn(from_cache, repeats, device, "Training from a cache")),
    }
    report.add(f"A step of training, {batch_size} images, seconds", rows)


def sampling_systems(base: CCLDPipeline, arguments: argparse.Namespace, device: torch.device) -> dict:
    """The original if it is given, and ours in each precision, also compiled on request."""
    systems = {}
    if arguments.original is not None:
        systems["original"] = Original(import_original(arguments.original), base, CLOOB)
    for precision in arguments.precisions:
        systems[precision] = Ours(copy_of(base, device, DTYPES[precision]))
        if arguments.compile:
            compiled = copy_of(base, device, DTYPES[precision])
            compile_networks(compiled)
            systems[f"{precision}, compiled"] = Ours(compiled)
    return systems


def with_fewer_evaluations(systems: dict) -> dict:
    """The systems, and the last one again with the recommended sampler, the fast setting, and a small decoder."""
    last, systems = list(systems)[-1], dict(systems)
    scheduler = CCLDScheduler(algorithm_type=RECOMMENDED_ALGORITHM)
    unet = systems[last].pipe.unet
    small = {"vae": AutoencoderTiny(**SMALL_DECODER).eval().to(unet.device, unet.dtype)}
    fewer = {
        "recommended sampler": ({"num_inference_steps": usual_num_steps(scheduler)}, {}),
        "five steps, guided in part": (FAST, {}),
        "five steps, guided in part, small decoder": (FAST, small),
    }
    for name, (options, components) in fewer.items():
        pipe = CCLDPipeline(**{**systems[last].pipe.components, "scheduler": scheduler, **components})
        pipe.set_progress_bar_config(disable=True)
        systems[f"{last}, {name}"] = Ours(pipe, options)
    return systems


def training_systems(systems: dict, base: CCLDPipeline, precisions: Sequence[str], device: torch.device) -> dict:
    """The original if it is given, and ours in each precision but float16, which would need scaled losses."""
    trained = {name: system for name, system in systems.items() if name == "original"}
    for precision in precisions:
        if precision != "fp16":
            # In bfloat16 the trained weights stay in float32, as with accelerate.
            trained[precision] = Ours(copy_of(base, device), autocast=precision == "bf16")
    return trained


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--original", type=Path, metavar="DIR", help="a checkout of the original's code (CPU only)")
    add("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="parts to measure (default: all)")
    add("--precisions", nargs="+", choices=list(DTYPES), default=["fp32", "bf16"], help="precisions of our code")
    add("--compile", action="store_true", help="also sample with our code compiled; compilation is not timed")
    add("--device", help="device to run on (default: the GPU if there is one)")
    add("--batch-size", type=int, default=1, help="images of one call of the network (default: %(default)s)")
    add("--training-batch-size", type=int, default=4, help="images of a training step (default: %(default)s)")
    add("--repeats", type=int, default=5, help="timed rounds, after one to warm up (default: %(default)s)")
    add("--output", type=Path, help="also write the results to this JSON file")
    arguments = parser.parse_args(argv)
    if min(arguments.repeats, arguments.batch_size, arguments.training_batch_size) < 1:
        raise ValueError("--repeats and the batch sizes must be at least 1.")
    return arguments


def main(argv: list[str] | None = None) -> None:
    arguments = parse_arguments(argv)
    device = usable_device(arguments.device)
    if arguments.original is not None and device.type != "cpu":
        raise ValueError("The original is compared on the CPU: give --device cpu.")
    report = Report(arguments.output)
    report.add("Machine", {"": describe_machine(device)})
    base = make_pipeline()
    systems = sampling_systems(base, arguments, device)
    if "network" in arguments.parts:
        measure_network(systems, arguments.batch_size, arguments.repeats, device, report)
    if "sampling" in arguments.parts:
        measure_sampling(with_fewer_evaluations(systems), arguments.repeats, device, report)
    if "bundled" in arguments.parts:
        measure_bundled(arguments.precisions, arguments.repeats, device, report)
    if "training" in arguments.parts:
        systems = training_systems(systems, base, arguments.precisions, device)
        measure_training(systems, arguments.training_batch_size, arguments.repeats, device, report)


if __name__ == "__main__":
    raise SystemExit(run_reporting_errors(main))
