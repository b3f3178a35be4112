"""Names of our scheduler, its algorithms and schedules, free of torch for the command line's `--help`."""

ALGORITHMS = ("ddpm", "ddim", "prk", "plms", "pie", "plms2", "iplms", "dpmpp", "unipc")  # the keys of METHODS

# Those whose steps depend on one evaluation of the network each, and may have fresh noise between them.
SINGLE_STEP = ("ddim", "ddpm")

TIMESTEP_SCHEDULES = ("spliced", "ddpm", "log", "linear")

# Those of the ONNX runtime: one evaluation a step, and no start of their own.
ONNX_ALGORITHMS = ("dpmpp", "unipc", "ddim")


def is_ccld_scheduler(scheduler: object) -> bool:
    """True for a `CCLDScheduler`, by its name: in folders with their own code, each component has a copy of it."""
    return any(parent.__name__ == "CCLDScheduler" for parent in type(scheduler).__mro__)
