"""Draws legal calls of the three pipelines."""

import random
from dataclasses import dataclass, field, replace
from typing import Any

from . import values
from .models import FITTED, SIZES, Sizes

PIPELINES = ("CCLDPipeline", "CCLDImg2ImgPipeline", "CCLDInpaintPipeline")
MODELS = ("ours",) * 4 + ("stock", "distilled", "codes")
DTYPES = ("float64",) * 4 + ("float32",) * 3 + ("bfloat16", "float16")
TEXTS = ("a fox", "A sunset, oil on canvas", "", "ein Hündchen & mehr", "word " * 60, "🦊", "  a\tfox\n")

# Schedulers that solve the pipelines' equation. Without a number of steps the stock ones take 50.
OURS = [
    *({"algorithm_type": name} for name in ("ddpm", "ddim", "prk", "plms", "pie", "plms2", "iplms", "dpmpp", "unipc")),
    *({"algorithm_type": name, "timestep_schedule": "linear"} for name in ("ddim", "ddpm", "dpmpp", "unipc")),
    *({"algorithm_type": name, "timestep_schedule": "log"} for name in ("ddim", "dpmpp", "plms2")),
]
STOCK = [
    ("DDIMScheduler", {}),
    ("DDIMScheduler", {"timestep_spacing": "leading"}),
    ("DDIMParallelScheduler", {}),
    ("DDPMScheduler", {}),
    ("DDPMParallelScheduler", {}),
    ("DEISMultistepScheduler", {}),
    ("DPMSolverMultistepScheduler", {}),
    ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    ("DPMSolverMultistepScheduler", {"solver_order": 3}),
    ("DPMSolverSinglestepScheduler", {}),
    ("DPMSolverSinglestepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    ("DPMSolverSDEScheduler", {}),
    ("DPMSolverSDEScheduler", {"noise_sampler_seed": 0}),
    ("EulerAncestralDiscreteScheduler", {}),
    ("EulerDiscreteScheduler", {}),
    ("HeunDiscreteScheduler", {}),
    ("HeunDiscreteScheduler", {"use_exponential_sigmas": True}),
    ("KDPM2AncestralDiscreteScheduler", {}),
    ("KDPM2DiscreteScheduler", {}),
    ("LCMScheduler", {}),
    ("LMSDiscreteScheduler", {}),
    ("PNDMScheduler", {}),
    ("PNDMScheduler", {"skip_prk_steps": True}),
    ("SASolverScheduler", {}),
    ("TCDScheduler", {}),
    ("UniPCMultistepScheduler", {}),
]
TAKE_ETA = ("DDIMScheduler", "DDIMParallelScheduler", "TCDScheduler")


@dataclass(frozen=True)
class RandomCall:
    """A call as code.

    Attributes:
        pipeline: Name of the pipeline's class.
        model: Name of the components.
        dtype: Precision of the networks.
        scheduler: Name of the scheduler's class.
        options: Options of the scheduler.
        arguments: Expressions for the arguments, by name; `values` has the functions that they call.
        seed: Seed of PyTorch's own generator, for calls without another, and of the choice of checks.
    """

    pipeline: str
    model: str
    dtype: str
    scheduler: str
    options: dict[str, Any]
    arguments: dict[str, str] = field(default_factory=dict)
    seed: int = 0

    def values(self) -> dict[str, Any]:
        """The arguments, made anew."""
        return {name: eval(code, vars(values).copy()) for name, code in self.arguments.items()}

    def having(self, **arguments: str | None) -> "RandomCall":
        """The call with other arguments; `None` leaves one out."""
        kept = {**self.arguments, **arguments}
        return replace(self, arguments={name: code for name, code in kept.items() if code is not None})

    @property
    def sizes(self) -> Sizes:
        """Sizes of the model."""
        return SIZES[self.model]

    @property
    def takes_eta(self) -> bool:
        """True if the scheduler takes any share of noise from 0 to 1."""
        return self.scheduler in TAKE_ETA or self.options.get("algorithm_type") == "ddim"


class Draw:
    """The choices of one call."""

    def __init__(self, base: int | str, number: int, model: str | None = None):
        self.chance = random.Random(f"{base}/{number}")
        self.number = number
        self.model = model or self.one(MODELS)
        self.sizes = SIZES[self.model]

    def one(self, options):
        """One of several."""
        return self.chance.choice(list(options))

    def maybe(self, probability: float) -> bool:
        """True with a probability."""
        return self.chance.random() < probability

    def seed(self) -> int:
        """A seed."""
        return self.chance.randrange(10**6)

    def call(self) -> RandomCall:
        """The whole call."""
        pipeline = self.one(PIPELINES)
        if self.maybe(0.5):
            scheduler, options = "CCLDScheduler", self.one(OURS)
        else:
            scheduler, options = self.one(STOCK)
        call = RandomCall(pipeline, self.model, self.one(DTYPES), scheduler, options, seed=self.seed())
        count = self.one((1, 1, 1, 2, 3))
        arguments = self.prompts(count)
        if pipeline != "CCLDPipeline":
            count = self.images(arguments, count)
        elif self.maybe(0.7):
            arguments |= {name: str(self.length()) for name in ("height", "width")}
        if pipeline == "CCLDInpaintPipeline":
            self.masks(arguments)
        if self.maybe(0.25):
            arguments["num_images_per_prompt"] = "2"
            count *= 2
        self.sampling(call, arguments, count)
        self.output(arguments)
        return call.having(**arguments)

    def length(self) -> int:
        """A height or width in pixels."""
        most = 3 if self.model == "bundled" else 4
        return self.sizes.multiple * self.chance.randint(2, most)

    # Prompts

    def prompts(self, count: int) -> dict[str, str]:
        """Prompts for `count` images."""
        arguments = {}
        if self.maybe(0.25):
            arguments["conditions"] = self.conditions(count)
            return arguments
        kinds = self.one((("text",), ("text",), ("image",), ("text", "image")))
        if "text" in kinds:
            arguments |= self.text("prompt", "prompt_embeds", count)
        if "image" in kinds:
            pictures = self.listed(
                lambda: self.picture(*self.shape()), 1 if len(kinds) > 1 and self.maybe(0.3) else count
            )
            arguments |= {"image_prompt": pictures} if self.maybe(0.7) else self.embeds("image_embeds", count)
        if len(kinds) > 1 and self.maybe(0.5):
            arguments["image_prompt_weight"] = self.one(("0", "0.2", "0.7", "1"))
        if self.maybe(0.3):
            arguments |= self.text("negative_prompt", "negative_prompt_embeds", self.one((1, count)))
        if self.maybe(0.7):
            arguments["guidance_scale"] = self.one(("0", "0.5", "1", "1.0", "2.5", "3", "7.5", "-1", "None"))
        return arguments

    def text(self, name, name_of_embeds, count):
        if self.maybe(0.2):
            return self.embeds(name_of_embeds, count)
        return {name: self.listed(lambda: repr(self.one(TEXTS)), count)}

    def embeds(self, name, count):
        width = self.sizes.width
        return {name: f"embeds({self.one(((count, width), (count, 1, width)))}, {self.seed()})"}

    def listed(self, make, count):
        """One item, or a list where several are needed; a list of one now and then."""
        items = [make() for _ in range(count)]
        return items[0] if count == 1 and self.maybe(0.7) else f"[{', '.join(items)}]"

    def conditions(self, count: int) -> str:
        """Weighted conditions for `count` images."""
        rows = [
            "[" + ", ".join(f"({self.condition()}, {self.one((0, 0.5, 1, 2.0, 3, -0.7))})" for _ in range(n)) + "]"
            for n in (self.one((0, 1, 1, 2, 3)) for _ in range(count))
        ]
        return rows[0] if count == 1 else f"[{', '.join(rows)}]"

    def condition(self):
        kind = self.one(("text", "text", "image", "embedding"))
        if kind == "text":
            return repr(self.one(TEXTS))
        if kind == "image":
            return self.picture(*self.shape())
        return f"embeds({self.one(((self.sizes.width,), (1, self.sizes.width)))}, {self.seed()})"

    # Pictures

    def shape(self) -> tuple[int, int]:
        """Width and height of a picture that may have any."""
        return self.chance.randint(8, 40), self.chance.randint(8, 40)

    def picture(self, width: int, height: int) -> str:
        """A PIL image."""
        turned = ", turned=True" if self.maybe(0.1) else ""
        return f"pil({self.one(values.MODES)!r}, {width}, {height}, {self.seed()}{turned})"

    def images(self, arguments: dict[str, str], count: int) -> int:
        """Adds images to start from; returns the number of images of the call."""
        number = self.one((1, count)) if count > 1 else self.one((1, 1, 1, 2))
        least = self.sizes.multiple
        height, width = self.length() + self.chance.randrange(least), self.length() + self.chance.randrange(least)
        if self.maybe(0.3):
            arguments |= {
                name: str(self.length()) for name in self.one((("height",), ("width",), ("height", "width")))
            }
        sized = {"height", "width"} <= arguments.keys()
        kind = self.one(("pil", "pil", "array", "tensor"))
        if kind == "pil":
            if number > 1 and sized:
                pictures = [self.picture(*self.shape()) for _ in range(number)]
            else:
                pictures = [
                    f"pil({self.one(values.MODES)!r}, {width}, {height}, {self.seed()})" for _ in range(number)
                ]
            arguments["image"] = pictures[0] if number == 1 and self.maybe(0.7) else f"[{', '.join(pictures)}]"
        else:
            shape = (height, width, 3) if kind == "array" else (3, height, width)
            dtype = self.one(("uint8", "float32", "float64", "float16"))
            arguments["image"] = self.batched(kind, shape, dtype, number)
        if self.maybe(0.8):
            arguments["strength"] = self.one(("0.3", "0.5", "0.66", "0.8", "0.95", "1", "1.0"))
        return max(number, count)

    def batched(self, make, shape, dtype, number):
        if number == 1 and self.maybe(0.5):
            return f"{make}({shape}, {dtype!r}, {self.seed()})"
        if self.maybe(0.5):
            return f"{make}({(number, *shape)}, {dtype!r}, {self.seed()})"
        return "[" + ", ".join(f"{make}({shape}, {dtype!r}, {self.seed()})" for _ in range(number)) + "]"

    def masks(self, arguments: dict[str, str]) -> None:
        """Adds a mask, or one for every image."""
        images = RandomCall("", self.model, "", "", {}, {"image": arguments["image"]}).values()["image"]
        single = not isinstance(images, list) and getattr(images, "ndim", 3) == 3
        number = 1 if single else self.one((1, len(images)))
        width, height = self.chance.randint(8, 40), self.chance.randint(8, 40)
        kind = self.one(("pil", "pil", "array", "tensor"))
        if kind == "pil":
            masks = [
                f"mask_pil({self.one(values.MASK_MODES)!r}, {width}, {height}, {self.seed()})" for _ in range(number)
            ]
            arguments["mask_image"] = masks[0] if number == 1 and self.maybe(0.7) else f"[{', '.join(masks)}]"
            return
        dtype = self.one(("bool", "uint8", "float32", "float64"))
        shape = self.one(((number, height, width), (number, 1, height, width)))
        if number == 1 and self.maybe(0.5):
            shape = (height, width)
        arguments["mask_image"] = f"mask_{kind}({shape}, {dtype!r}, {self.seed()})"

    # Sampling and output

    def sampling(self, call: RandomCall, arguments: dict[str, str], count: int) -> None:
        """Adds steps, noise and guidance in an interval, for `count` images."""
        arguments["num_inference_steps"] = str(self.one((1, 2, 3, 4, 4, 5, 6, 8)))
        kind = self.one(("one", "list", "list", "none"))
        if kind == "one":
            arguments["generator"] = f"generator({self.seed()})"
        elif kind == "list":
            arguments["generator"] = "[" + ", ".join(f"generator({self.seed()})" for _ in range(count)) + "]"
        if self.model in FITTED and self.maybe(0.4):
            arguments["variation"] = self.one(("0", "0.5", "1", "None"))
        if self.maybe(0.25):
            arguments["guidance_interval"] = self.one(("(0.0, 1.0)", "(0.3, 0.8)", "[0, 0.5]", "(0.5, 0.5)", "(0, 0)"))
        if self.maybe(0.2):
            # The guidance of a guidance-distilled network cannot be taken apart.
            shares = ("1", "1.0") if self.model == "distilled" else ("0", "0.5", "1", "1.0")
            arguments["parallel_guidance"] = self.one(shares)
        if call.takes_eta and self.maybe(0.5):
            arguments["eta"] = self.one(("0", "0.3", "1", "1.0"))
        if call.options.get("algorithm_type") == "ddpm" and self.maybe(0.3):
            arguments["eta"] = "1"
        if call.pipeline == "CCLDPipeline" and self.maybe(0.2):
            height, width = (
                int(arguments.get(name, self.sizes.default)) // self.sizes.factor for name in ("height", "width")
            )
            arguments["latents"] = f"normal({(count, self.sizes.channels, height, width)}, {self.seed()})"

    def output(self, arguments: dict[str, str]) -> None:
        """Adds what is wanted of the result, and a callback."""
        if self.maybe(0.7):
            arguments["output_type"] = repr(self.one(("pil", "np", "pt", "latent")))
        if self.maybe(0.2):
            arguments["return_dict"] = "False"
        if self.maybe(0.25):
            action = self.one(("", "none", "stop", "guidance", "replace"))
            arguments["callback_on_step_end"] = f"Watch({action!r}, {self.one((0, 1))})"
            if self.maybe(0.5):
                arguments["callback_on_step_end_tensor_inputs"] = self.one(
                    ("['latents']", "('latents', 'condition_embeds')", "['condition_embeds', 'latents']")
                )


def draw(base: int | str, number: int, model: str | None = None) -> RandomCall:
    """Draws call `number` of a seed, of all models but the bundled one unless that is named."""
    return Draw(base, number, model).call()
