#!/usr/bin/env python3
"""Makes a smaller network for a teacher's pipeline, for training/distill.py to train.

    python training/create_student.py --teacher DIR --parameters 1_100_000 --output DIR
    python training/create_student.py --teacher DIR --block-out-channels 192 192 384 384 --output DIR
    python training/create_student.py --teacher DIR --preset wikiart-mini --output DIR
    python training/create_student.py --teacher DIR --unet-config JSON --output DIR

The result is a pipeline folder: the student, and all other parts of the teacher's pipeline. By default, the student
has the shape of the teacher.
"""

import argparse
from pathlib import Path

import diffusers
import torch
from diffusers import UNet2DConditionModel

from diffusers_ccld import CCLDPipeline, CCLDUNet2DConditionModel
from diffusers_ccld.cli import run_reporting_errors
from diffusers_ccld.cli.arguments import add_hub_arguments, chosen_repository
from diffusers_ccld.models.prediction import predict_velocity
from diffusers_ccld.sharing.base_models import model_license, model_name
from diffusers_ccld.sharing.hub import forget_places, push_folder
from diffusers_ccld.sharing.model_cards import STUDENT, save_card, table
from diffusers_ccld.training.components import (
    IMAGE_COMPONENTS,
    TEXT_COMPONENTS,
    load_components,
    load_defaults,
    make_from_json,
    network_settings,
    read_json,
)
from diffusers_ccld.training.student import narrowed, select_weights
from diffusers_ccld.utils.arguments import ArgumentParser
from diffusers_ccld.utils.errors import first_line
from diffusers_ccld.utils.files import folder_moved_into_place

# Widths of the published student as shares of the published teacher's, (768, 768, 1536, 1536).
PRESETS = {"wikiart-mini": {"block_out_channels": [192, 192, 384, 384]}}

# Settings that the rest of the pipeline determines.
BOUND_SETTINGS = ("in_channels", "out_channels", "cross_attention_dim")


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--teacher", required=True, help="folder or Hub name of the teacher's pipeline")
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    shape = parser.add_argument_group("the student's shape")
    shape.add_argument("--parameters", type=int, help="make the widest network with at most this many parameters")
    shape.add_argument("--block-out-channels", type=int, nargs="+", help="width of every level")
    shape.add_argument("--layers-per-block", type=int, nargs="+", help="residual blocks of every level")
    shape.add_argument("--attention-head-dim", type=int, help="channels of an attention head")
    shape.add_argument("--mapping-dim", type=int, help="width of the mapping network")
    shape.add_argument("--preset", choices=PRESETS, help="the widths of a published student")
    shape.add_argument(
        "--unet-config", help="JSON file of the whole configuration, of our U-Net or of a stock UNet2DConditionModel"
    )
    parser.add_argument(
        "--guidance-embedding-dim",
        "--told-guidance",
        type=int,
        metavar="DIM",
        help="give it an input for the guidance scale, an embedding of this width",
    )
    parser.add_argument(
        "--init",
        choices=("random", "teacher"),
        default="random",
        help="random weights, or a selection of the weights of a teacher with the same depth (default: %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of random weights (default: %(default)s)")
    parser.add_argument(
        "--license", help="licence of the result, for its model card, such as 'mit' (default: the teacher's)"
    )
    add_hub_arguments(parser)
    arguments = parser.parse_args(argv)
    _check(parser, arguments)
    return arguments


def _check(parser, arguments):
    given = {name for name, value in vars(arguments).items() if value is not None}
    if len(given & {"parameters", "block_out_channels", "preset", "unet_config"}) != 1:
        parser.error("give one of --parameters, --block-out-channels, --preset and --unet-config")
    details = given & {"layers_per_block", "attention_head_dim", "mapping_dim", "guidance_embedding_dim"}
    if "unet_config" in given and details:
        parser.error(f"--unet-config describes the whole network: leave out {', '.join(map(_flag, sorted(details)))}")
    if "parameters" in given and "mapping_dim" in given:
        parser.error("--parameters decides on --mapping-dim, too: leave it out")
    for name in given & {"parameters", "block_out_channels", "layers_per_block", "attention_head_dim", "mapping_dim"}:
        value = getattr(arguments, name)
        if min(value if isinstance(value, list) else [value]) < 1:
            parser.error(f"{_flag(name)} must be positive")


def _flag(name):
    return f"--{name.replace('_', '-')}"


def make_student(arguments: argparse.Namespace, teacher: CCLDUNet2DConditionModel) -> UNet2DConditionModel:
    """Makes the network that the arguments describe, with random weights.

    Raises:
        ValueError: If the arguments do not describe a network, or it does not fit the teacher's pipeline.
    """
    settings = network_settings(teacher)
    if arguments.unet_config is not None:
        config = read_json(arguments.unet_config)
        name = config.get("_class_name", CCLDUNet2DConditionModel.__name__)
        if name not in ("UNet2DConditionModel", CCLDUNet2DConditionModel.__name__):
            raise ValueError(f"{arguments.unet_config} describes a {name}, not one of the two kinds of U-Net.")
        student = make_from_json(getattr(diffusers, name), arguments.unet_config)
        if "sample_size" not in config:
            student.register_to_config(sample_size=teacher.config.sample_size)
    elif not isinstance(teacher, CCLDUNet2DConditionModel):
        raise ValueError("Only a CCLD U-Net can be narrowed, and the teacher is another network: give --unet-config.")
    else:
        for name in ("block_out_channels", "layers_per_block", "attention_head_dim", "mapping_dim"):
            if getattr(arguments, name) is not None:
                settings[name] = getattr(arguments, name)
        settings |= PRESETS.get(arguments.preset, {})
        if arguments.guidance_embedding_dim is not None:
            settings["time_cond_proj_dim"] = arguments.guidance_embedding_dim
        if len(layers := arguments.layers_per_block or ()) == 1:
            settings["layers_per_block"] = layers[0]
        if arguments.parameters is not None:
            settings = narrowed(settings, arguments.parameters)
        student = CCLDUNet2DConditionModel(**settings)
    differing = [name for name in BOUND_SETTINGS if student.config[name] != teacher.config[name]]
    if differing:
        both = [f"{name} is {student.config[name]} and {teacher.config[name]}" for name in differing]
        raise ValueError(f"Student and teacher do not share a pipeline: {'; '.join(both)}.")
    try_once(student)
    return student


@torch.no_grad()
def try_once(student: UNet2DConditionModel) -> None:
    """Evaluates a network once, as a pipeline does.

    Raises:
        ValueError: If it needs other inputs than a pipeline has.
    """
    config = student.config
    size = 2 ** (len(config.block_out_channels) + 1)
    noisy, condition = torch.zeros(1, config.in_channels, size, size), torch.zeros(1, 1, config.cross_attention_dim)
    try:
        predict_velocity(student, noisy, torch.zeros(1), condition)
    except (ValueError, RuntimeError, TypeError, AttributeError) as error:
        raise ValueError(f"A pipeline cannot evaluate the network: {first_line(error)}") from error


def create_student(argv: list[str] | None = None) -> None:
    arguments = parse_arguments(argv)
    if arguments.output.exists():
        raise ValueError(f"--output {arguments.output} already exists; give another folder.")
    name = arguments.output.resolve().name
    teacher = load_components(arguments.teacher, ["unet"])["unet"]
    torch.manual_seed(arguments.seed)
    student = make_student(arguments, teacher)
    if arguments.init == "teacher":
        if not (isinstance(student, CCLDUNet2DConditionModel) and isinstance(teacher, CCLDUNet2DConditionModel)):
            raise ValueError("--init teacher selects weights of a CCLD U-Net for a CCLD U-Net; give another --init.")
        select_weights(student, teacher)
    hub_name = chosen_repository(arguments, name)
    rest = load_components(arguments.teacher, (*IMAGE_COMPONENTS, *TEXT_COMPONENTS, "scheduler"))
    share = student.num_parameters() / teacher.num_parameters()
    size = f"{student.num_parameters():,}, {share:.1%} of the teacher's {teacher.num_parameters():,}"
    with folder_moved_into_place(arguments.output) as temporary:
        if arguments.output.exists():
            raise ValueError(f"--output {arguments.output} has been written in the meantime; give another folder.")
        CCLDPipeline(unet=student, **rest, **load_defaults(arguments.teacher)).save_pretrained(temporary)
        forget_places(temporary)
        weights = "a selection of the teacher's" if arguments.init == "teacher" else f"random, seed {arguments.seed}"
        facts = {"teacher": model_name(arguments.teacher), "parameters": size, "weights": weights}
        section = f"## The student\n\n{table(facts)}"
        terms = arguments.license or model_license(arguments.teacher)
        save_card(temporary, STUDENT, hub_name or name, section, base=arguments.teacher, license=terms)
    print(f"parameters: {size}")
    print(f"wrote {arguments.output}")
    if hub_name is not None:
        print(f"uploaded to {push_folder(arguments.output, hub_name)}")


if __name__ == "__main__":
    raise SystemExit(run_reporting_errors(create_student))
