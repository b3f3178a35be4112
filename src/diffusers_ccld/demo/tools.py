"""The painter as tools for clients of the Model Context Protocol (MCP)."""

from collections.abc import Sequence
from typing import Any

import gradio as gr
from PIL import Image

from .actions import Studio
from .form import Inputs
from .suggestions import vocabulary

PREFIX = "tool_"  # of the names of their functions in the API
MCP_PATH = "/gradio_api/mcp/"


class Tools:
    """The functions that clients call. Their docstrings are what a client reads.

    Args:
        studio: Samples the pictures.
    """

    def __init__(self, studio: Studio):
        self.studio = studio

    async def paint(
        self,
        prompt: str,
        negative_prompt: str = "",
        seed: int = 0,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        variation: float | None = None,
    ) -> tuple[Image.Image, str]:
        """Paints one picture from a prompt.

        Args:
            prompt: The contents of the picture.
            negative_prompt: Contents to avoid.
            seed: Seed of the noise. Each seed gives another picture; the same seed and values give the same.
            num_inference_steps: Number of sampling steps; the time is proportional to it.
            guidance_scale: How strongly the prompt counts.
            variation: How much pictures of one prompt differ, 0 to 1.
        """
        return await self._paint(
            "paint",
            prompt=prompt,
            negative_prompt=negative_prompt,
            seed=seed,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            variation=variation,
        )

    async def paint_between(
        self, prompt: str, second_prompt: str, position: float = 0.5, seed: int = 0
    ) -> tuple[Image.Image, str]:
        """Paints one picture between two prompts.

        Args:
            prompt: The prompt at position 0.
            second_prompt: The prompt at position 1.
            position: The position between the prompts, 0 to 1.
            seed: Seed of the noise. With the same seed, pictures of close positions are similar.
        """
        return await self._paint("between", prompt=prompt, second_prompt=second_prompt, position=position, seed=seed)

    async def _paint(self, task, **values):
        own = self.studio.own_settings()
        return await self.studio.picture(task, own | {k: v for k, v in values.items() if v is not None})


def add_tools(studio: Studio) -> None:
    """Adds the tools to the page that is being built. `launch` serves them.

    Args:
        studio: Samples the pictures. The descriptions list the words of a model with a small vocabulary.
    """
    tools, own = Tools(studio), studio.own_settings()
    words = f" {vocabulary(studio.model)}".rstrip()
    details = {
        "negative_prompt": gr.Textbox("", visible=False),
        "num_inference_steps": gr.Number(own["num_inference_steps"], precision=0, visible=False),
        "guidance_scale": gr.Number(own["guidance_scale"], visible=False),
    }
    if studio.painter.variation is not None:
        details["variation"] = gr.Number(own["variation"], visible=False)
    _connect(tools.paint, f"Paints one picture from a prompt.{words}", details)
    between = {"second_prompt": gr.Textbox(visible=False), "position": gr.Number(0.5, visible=False)}
    _connect(tools.paint_between, f"Paints one picture between two prompts.{words}", between)


def _connect(function, description: str, inputs: Inputs) -> None:
    """Makes a function one of the API, in the same queue as the page's."""
    gr.Button(visible=False).click(
        function,
        inputs_kwargs={
            "prompt": gr.Textbox(visible=False),
            "seed": gr.Number(0, precision=0, visible=False),
            **inputs,
        },
        outputs=[gr.Image(format="png", visible=False), gr.Textbox(label="Unknown words", visible=False)],
        api_name=PREFIX + function.__name__,
        api_description=description,
        preprocess=False,  # parse_request checks more, with clearer messages
        concurrency_limit=1,
        concurrency_id="painter",
    )


def has_tools(page: gr.Blocks) -> bool:
    """True if `add_tools` added the tools to a page."""
    return any(str(function.api_name).startswith(PREFIX) for function in page.fns.values())


def set_up_server(page: gr.Blocks) -> None:
    """Offers the tools alone to MCP clients, and gives them both outputs of a tool.

    The page's own functions have many inputs, and files among them. Of several outputs, Gradio would make the text of
    a tuple, unless a client asks for the progress of its call.

    Raises:
        RuntimeError: If Gradio could not start its MCP server.
    """
    server = page.mcp_server_obj
    if server is None:
        raise RuntimeError(page.mcp_error)
    server.tool_to_endpoint = {
        tool: endpoint for tool, endpoint in server.tool_to_endpoint.items() if endpoint.startswith(f"/{PREFIX}")
    }
    contents_of = server.postprocess_output_data

    def contents(data: Sequence[Any], *arguments: Any) -> list[Any]:
        outputs = [part for output in data for part in (output if isinstance(output, (list, tuple)) else [output])]
        return contents_of([output for output in outputs if output], *arguments)

    server.postprocess_output_data = contents
