"""Names of the sampling algorithms and timestep schedules, free of torch for the command line's `--help`."""

ALGORITHMS = ("ddpm", "ddim", "prk", "plms", "pie", "plms2", "iplms", "dpmpp", "unipc")  # the keys of METHODS

TIMESTEP_SCHEDULES = ("spliced", "ddpm", "log", "linear")

# Those of the ONNX runtime: one evaluation a step, and no start of their own.
ONNX_ALGORITHMS = ("dpmpp", "unipc", "ddim")
