"""The small trained model that comes with the package."""

from pathlib import Path


def default_model() -> str:
    """Folder of the bundled pipeline, for `from_pretrained`.

    It paints 128 × 128 pictures of a dozen subjects in six media; its `README.md` says what it can do and what not.

        pipe = CCLDPipeline.from_pretrained(default_model())
    """
    return str(Path(__file__).parent / "default_model")
