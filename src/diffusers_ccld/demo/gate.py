"""What stands before the demo's server: only what its page needs comes through."""

import json
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from .requests import uploaded_file

# Gradio serves a good deal more, such as a proxy, addresses that it fetches for the caller, and calls past the queue.
PAGES = ("/", "/config", "/config/", "/theme.css", "/favicon.ico", "/robots.txt", "/manifest.json")
FOLDERS = ("/assets/", "/static/")
API_PAGES = (
    "app_id",
    "cancel",
    "info",
    "info/",
    "login_check",
    "queue/data",
    "queue/join",
    "queue/status",
    "reset",
    "run/predict",  # of functions that do not queue
    "startup-events",
    "theme.css",
    "upload",
    "upload_progress",
)
API_FOLDERS = ("call/", "file=", "heartbeat/")
API = "/gradio_api/"

JSON_BYTES = 256 * 2**10
DEPTH = 16


class RefusedError(Exception):
    """A request that is not let through, with the status and the reason it is answered with."""

    def __init__(self, status: int, reason: str):
        super().__init__(reason)
        self.status = status


class Gate:
    """ASGI middleware. Lets through what the page needs, bodies of bounded size, and files that were uploaded.

    Args:
        app: The application behind it.
        num_inputs: How many inputs each function of the page has, by its name and by its index.
        upload_folder: Where uploads lie.
        upload_bytes: Size of the largest upload.
    """

    def __init__(
        self,
        app: Callable[..., Awaitable[None]],
        num_inputs: Mapping[str | int, int],
        upload_folder: Path,
        upload_bytes: int,
    ):
        self.app = app
        self.num_inputs = num_inputs
        self.upload_folder = upload_folder
        self.upload_bytes = upload_bytes

    async def __call__(self, scope: dict, receive: Callable, send: Callable) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        try:
            if scope["type"] != "http":
                raise RefusedError(404, "There are no sockets here.")
            receive = await self._inspected(scope, receive)
        except RefusedError as refusal:
            await _answer(send, refusal.status, str(refusal))
            return
        await self.app(scope, receive, send)

    async def _inspected(self, scope: dict, receive: Callable) -> Callable:
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        if not is_served(path):
            raise RefusedError(404, "There is nothing here.")
        if scope["method"] in ("GET", "HEAD", "OPTIONS"):
            return receive
        if scope["method"] != "POST":
            raise RefusedError(405, "This method has no meaning here.")
        is_upload = path == f"{API}upload"
        longest = self.upload_bytes + 2**16 if is_upload else JSON_BYTES
        headers = dict(scope["headers"])
        length = headers.get(b"content-length", b"")
        if not length.isdigit() or b"transfer-encoding" in headers:  # which would be heeded in place of the length
            raise RefusedError(411, "Say how long the request is.")
        if int(length) > longest:
            raise RefusedError(413, f"The request is larger than {longest} bytes.")
        if is_upload:
            return receive
        body = await _read(receive, longest)
        data = check_json(body, self.upload_folder)
        if path in (f"{API}queue/join", f"{API}run/predict"):
            self._check_call(data.get("fn_index"), data)
        elif path.startswith(f"{API}call/"):
            self._check_call(path.removeprefix(f"{API}call/").rstrip("/"), data)
        return _replay(body, receive)

    def _check_call(self, function: Any, data: dict) -> None:
        if not isinstance(function, str | int) or function not in self.num_inputs:
            raise RefusedError(404, "There is no such function.")
        inputs, expected = data.get("data"), self.num_inputs[function]
        if not isinstance(inputs, list) or len(inputs) != expected:
            raise RefusedError(400, f'"data" must be a list of {expected} inputs.')


def is_served(path: str) -> bool:
    """Whether a path is one that the page needs."""
    if "://" in path or "/../" in path:
        return False
    if path in PAGES or path.startswith(FOLDERS):
        return True
    name = path.removeprefix(API)
    return name != path and (name in API_PAGES or name.startswith(API_FOLDERS))


def check_json(body: bytes, upload_folder: Path) -> dict:
    """A body that must be an object in which every file is an upload.

    Raises:
        RefusedError: If it is not.
    """
    try:
        data = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise RefusedError(400, "The request is not JSON.") from error
    if not isinstance(data, dict):
        raise RefusedError(400, "The request must be a JSON object.")
    for item in _objects(data):
        if "path" in item:
            try:
                uploaded_file(item, upload_folder)
            except ValueError as error:
                raise RefusedError(400, str(error)) from error
            if item.get("meta") != {"_type": "gradio.FileData"}:
                raise RefusedError(400, 'A file needs "meta": {"_type": "gradio.FileData"}.')
    return data


def _objects(data: Any) -> Iterator[dict]:
    """Every object inside of something that was JSON."""
    pending = [(data, 1)]
    while pending:
        item, depth = pending.pop()
        if depth > DEPTH:
            raise RefusedError(400, "The request is nested too deeply.")
        if isinstance(item, dict):
            yield item
            pending += [(value, depth + 1) for value in item.values()]
        elif isinstance(item, list):
            pending += [(value, depth + 1) for value in item]


async def _read(receive: Callable, longest: int) -> bytes:
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise RefusedError(400, "The request broke off.")
        body += message.get("body", b"")
        more = message.get("more_body", False)
        if len(body) > longest:
            raise RefusedError(413, f"The request is larger than {longest} bytes.")
    return body


def _replay(body: bytes, receive: Callable) -> Callable:
    """A `receive` that gives a body that was read already, and then what comes after it."""
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> dict:
        return messages.pop() if messages else await receive()

    return replay


async def _answer(send: Callable, status: int, reason: str) -> None:
    body = json.dumps({"detail": reason}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
