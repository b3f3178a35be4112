#!/usr/bin/env python3
"""Measures the demo under load: many clients that each request one small picture after another.

    python benchmarks/demo_load.py --clients 50 --seconds 120

Every request must return a picture, or report that the queue is full; its client then tries again. The memory of the
server is read once a second, which only works on Linux.
"""

import asyncio
import io
import random
import socket
import statistics
import subprocess
import sys
import time
from collections import Counter

import httpx
import psutil
from PIL import Image

from diffusers_ccld.cli import run_reporting_errors
from diffusers_ccld.demo.model import BUNDLED_EXAMPLES
from diffusers_ccld.utils.arguments import ArgumentParser

EXAMPLES = BUNDLED_EXAMPLES[0].read_text(encoding="utf-8").splitlines()


def free_port() -> int:
    """A port that was free just now."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def resident_megabytes(pid: int) -> float:
    """Resident memory of a process."""
    return psutil.Process(pid).memory_info().rss / 2**20


async def inputs_of(http: httpx.AsyncClient, **values: object) -> list[object]:
    """The inputs of the function that paints, in their order: values by name, and the defaults of the others."""
    functions = (await http.get("/gradio_api/info")).json()["named_endpoints"]
    fields = functions["/paint"]["parameters"]
    return [values.get(field["parameter_name"], field.get("parameter_default")) for field in fields]


async def paint_one(http: httpx.AsyncClient, prompt: str, steps: int) -> str:
    """Requests a picture; returns "picture", "queue full" or a description of the failure."""
    inputs = await inputs_of(http, prompt=prompt, num_inference_steps=steps, algorithm="plms2", num_images=1)
    answer = await http.post("/gradio_api/call/paint", json={"data": inputs})
    if answer.status_code == 503 and "full" in answer.json()["detail"]:
        return "queue full"
    if answer.status_code != 200:
        return f"status {answer.status_code}"
    event = path = None
    async with http.stream("GET", f"/gradio_api/call/paint/{answer.json()['event_id']}") as stream:
        async for line in stream.aiter_lines():
            if line.startswith("event: "):
                event = line.removeprefix("event: ")
            elif line.startswith("data: ") and event == "complete":
                path = line.partition('"path": "')[2].partition('"')[0]
    if not path:
        return f"ended with {event}"
    picture = Image.open(io.BytesIO((await http.get(f"/gradio_api/file={path}")).content))
    picture.load()
    return "picture"


async def client(http: httpx.AsyncClient, steps: int, until: float, outcomes: Counter, waits: list[float]) -> None:
    """Requests one picture after another until a time, counts outcomes and appends seconds to `waits`."""
    while time.monotonic() < until:
        begin, outcome = time.monotonic(), "queue full"
        while outcome == "queue full":  # a request that has begun is repeated until it is answered
            try:
                outcome = await paint_one(http, random.choice(EXAMPLES), steps)
            except httpx.HTTPError as error:
                outcome = type(error).__name__
            outcomes[outcome] += 1
            if outcome == "queue full":
                await asyncio.sleep(random.uniform(0.5, 1.5))
        waits.append(time.monotonic() - begin)


async def watch(pid: int, samples: list[float]) -> None:
    """Appends the memory of a process once a second."""
    while True:
        samples.append(resident_megabytes(pid))
        await asyncio.sleep(1)


async def measure(address: str, pid: int, num_clients: int, seconds: float, steps: int) -> None:
    """Runs the clients and prints the results.

    Raises:
        ValueError: If a request was lost, or the demo does not sample at all.
    """
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=address, timeout=300, limits=limits) as http:
        for _ in range(3):  # the first pictures load libraries, which is not a leak
            if (outcome := await paint_one(http, EXAMPLES[0], steps)) != "picture":
                raise ValueError(f"The demo does not sample a picture: {outcome}.")
        outcomes, waits, samples = Counter(), [], []
        watcher = asyncio.create_task(watch(pid, samples))
        begin = time.monotonic()
        await asyncio.gather(
            *(client(http, steps, begin + seconds, outcomes, waits) for _ in range(num_clients)),
        )
        watcher.cancel()
    taken = time.monotonic() - begin
    lost = sum(outcomes.values()) - outcomes["picture"] - outcomes["queue full"]
    print(f"{num_clients} clients, {taken:.0f} s: {outcomes['picture']} pictures, {outcomes['queue full']} times full")
    print(f"{lost} lost")
    print(f"to a picture: median {statistics.median(waits):.1f} s, longest {max(waits):.1f} s")
    first, middle, last = samples[0], samples[len(samples) // 2], samples[-1]
    print(f"server memory, MB: {first:.0f} at the start, {middle:.0f} in the middle, {last:.0f} at the end")
    if lost:
        raise ValueError(f"{lost} requests were lost.")


def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=50, help="number of clients (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=120, help="duration (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=5, help="sampling steps of each picture (default: %(default)s)")
    parser.add_argument("--queue-size", type=int, default=20, help="size of the demo's queue (default: %(default)s)")
    arguments = parser.parse_args(argv)
    port = free_port()
    command = [sys.executable, "-m", "diffusers_ccld", "demo", "--port", port, "--queue-size", arguments.queue_size]
    server = subprocess.Popen([str(part) for part in command], stderr=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(300):
            try:
                httpx.get(address)
                break
            except httpx.ConnectError:
                time.sleep(1)
                if server.poll() is not None:
                    raise ValueError("The demo did not start.") from None
        asyncio.run(measure(address, server.pid, arguments.clients, arguments.seconds, arguments.steps))
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    raise SystemExit(run_reporting_errors(main))
