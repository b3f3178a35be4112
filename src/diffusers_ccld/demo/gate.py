"""A gate before the demo's server. It passes only the requests that the page needs."""

import json
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from .uploads import uploaded_file

# Gradio serves many other paths, among them a proxy, URLs fetched for the caller, and calls that bypass the queue.
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
    "run/predict",  # functions without a queue
    "startup-events",
    "theme.css",
    "upload",
    "upload_progress",
)
API_FOLDERS = ("call/", "file=", "heartbeat/")
API = "/gradio_api/"
MCP_PAGES = ("/gradio_api/mcp", "/gradio_api/mcp/")

JSON_BYTES = 256 * 2**10
DEPTH = 16


class RefusedError(Exception):
    """A request that is refused, with the HTTP status and the reason of the answer."""

    def __init__(self, status: int, reason: str):
        super().__init__(reason)
        self.status = status


class Gate:
    """ASGI middleware. Passes the page's requests if their bodies are small and their files are uploads.

    Args:
        app: The application behind the gate.
        num_inputs: Number of inputs of each function of the page, by its name and by its index.
        upload_folder: Folder of the uploads.
        upload_bytes: Maximum size of an upload in bytes.
        serves_tools: True to pass requests of MCP clients.
    """

    def __init__(
        self,
        app: Callable[..., Awaitable[None]],
        num_inputs: Mapping[str | int, int],
        upload_folder: Path,
        upload_bytes: int,
        serves_tools: bool = False,
    ):
        self.app = app
        self.num_inputs = num_inputs
        self.upload_folder = upload_folder
        self.upload_bytes = upload_bytes
        self.serves_tools = serves_tools

    async def __call__(self, scope: dict, receive: Callable, send: Callable) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        try:
            if scope["type"] != "http":
                raise RefusedError(404, "WebSockets are not served.")
            receive = await self._inspected(scope, receive)
        except RefusedError as refusal:
            await _answer(send, refusal.status, str(refusal))
            return
        await self.app(scope, receive, send)

    async def _inspected(self, scope: dict, receive: Callable) -> Callable:
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        is_for_tools = self.serves_tools and path in MCP_PAGES
        if not is_for_tools and not is_served(path):
            raise RefusedError(404, "This path is not served.")
        if is_for_tools and scope["method"] == "GET":  # would wait for messages that never come
            raise RefusedError(405, "MCP clients send POST requests to this address.")
        if scope["method"] in ("GET", "HEAD", "OPTIONS"):
            return receive
        if scope["method"] != "POST":
            raise RefusedError(405, "This method is not allowed.")
        is_upload = path == f"{API}upload"
        longest = self.upload_bytes + 2**16 if is_upload else JSON_BYTES
        headers = dict(scope["headers"])
        length = headers.get(b"content-length", b"")
        if not length.isdigit() or b"transfer-encoding" in headers:  # chunks would override the length
            raise RefusedError(411, "The request needs a Content-Length.")
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
            raise RefusedError(404, "This function does not exist.")
        inputs, expected = data.get("data"), self.num_inputs[function]
        if not isinstance(inputs, list) or len(inputs) != expected:
            raise RefusedError(400, f'"data" must be a list of {expected} inputs.')


def is_served(path: str) -> bool:
    """True if the page needs a path."""
    if "://" in path or "/../" in path:
        return False
    if path in PAGES or path.startswith(FOLDERS):
        return True
    name = path.removeprefix(API)
    return name != path and (name in API_PAGES or name.startswith(API_FOLDERS))


def check_json(body: bytes, upload_folder: Path) -> dict:
    """Parses a body, a JSON object whose files are all uploads.

    Raises:
        RefusedError: If the body is anything else.
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
    """All objects in parsed JSON, at any depth."""
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
            raise RefusedError(400, "The request ended early.")
        body += message.get("body", b"")
        more = message.get("more_body", False)
        if len(body) > longest:
            raise RefusedError(413, f"The request is larger than {longest} bytes.")
    return body


def _replay(body: bytes, receive: Callable) -> Callable:
    """A `receive` that returns a body that has been read before, and then the messages after it."""
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> dict:
        return messages.pop() if messages else await receive()

    return replay


async def _answer(send: Callable, status: int, reason: str) -> None:
    body = json.dumps({"detail": reason}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
