"""The page at `/`: static files under a strict content security policy.

The folder `page/` is served: `index.html` at `/`, every other file at `/page/NAME`. The folder is read once and names
are looked up in the result, so no path from outside reaches the file system.
"""

import hashlib
import mimetypes
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response

from gpt2.serve.faults import ApiError
from gpt2.serve.service import Service

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


@dataclass(frozen=True, slots=True)
class _File:
    content: bytes
    media_type: str
    tag: str


async def index(service: Service, request: Request) -> Response:
    """The page itself."""
    return _answer("index.html", request)


async def file(service: Service, request: Request) -> Response:
    """A file of the page."""
    return _answer(request.path_params["name"], request)


def _answer(name: str, request: Request) -> Response:
    found = _files().get(name)
    if found is None:
        raise ApiError(404, f"The page has no file {name[:100]!r}.")
    headers = {
        "etag": found.tag,
        "cache-control": "no-cache",  # the browser asks each time and gets a 304
        "content-security-policy": POLICY,
        "referrer-policy": "no-referrer",
        "cross-origin-opener-policy": "same-origin",
    }
    if request.headers.get("if-none-match") == found.tag:
        return Response(status_code=304, headers=headers)
    return Response(found.content, headers=headers, media_type=found.media_type)


@cache
def _files() -> dict[str, _File]:
    folder = Path(__file__).parent / "page"
    return {path.name: _read(path) for path in sorted(folder.iterdir()) if path.is_file()}


def _read(path: Path) -> _File:
    content = path.read_bytes()
    media_type = {".js": "text/javascript", ".mjs": "text/javascript", ".svg": "image/svg+xml"}.get(path.suffix)
    return _File(
        content=content,
        media_type=media_type or mimetypes.guess_type(path.name)[0] or "application/octet-stream",
        tag=f'"{hashlib.sha256(content).hexdigest()[:16]}"',
    )
