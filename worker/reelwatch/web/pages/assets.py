"""Styles and scripts: files of the package under names that change with what is in them.

So a browser may keep each for ever, and a new release is never shown with an old one's styles.
"""

import gzip
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse
from starlette.exceptions import HTTPException

from reelwatch.web.accepting import weight

router = APIRouter(include_in_schema=False)

FOLDER = Path(__file__).parent / "assets"
KINDS = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
KEPT = "public, max-age=31536000, immutable"


@dataclass(frozen=True, slots=True)
class Asset:
    """One file, as it is and compressed."""

    kind: str
    body: bytes
    packed: bytes


@cache
def assets() -> Mapping[str, Asset]:
    """All of them, by the names under which they are served."""
    found = {}
    for path in sorted(FOLDER.iterdir()):
        if path.suffix in KINDS:
            body = path.read_bytes()
            packed = gzip.compress(body, 9, mtime=0)
            found[_served_name(path, body)] = Asset(KINDS[path.suffix], body, packed)
    return MappingProxyType(found)


def _served_name(path: Path, body: bytes) -> str:
    return f"{path.stem}.{hashlib.sha256(body).hexdigest()[:12]}{path.suffix}"


@cache
def address(name: str) -> str:
    """Where a file of the folder is served: `/assets/page.0123456789ab.css`."""
    path = FOLDER / name
    return f"/assets/{_served_name(path, path.read_bytes())}"


@router.get("/favicon.ico")
async def favicon() -> Response:
    """For what names no icon of its own: the API's answers, the document."""
    return RedirectResponse(address("mark.svg"))


@router.get("/assets/{name}")
async def asset(name: str, request: Request) -> Response:
    """One file. Nothing of it is anybody's secret, so no role is asked for."""
    found = assets().get(name)
    if found is None:
        raise HTTPException(404)
    headers = {"cache-control": KEPT, "vary": "accept-encoding"}
    if weight(request.headers.get("accept-encoding", ""), "gzip"):
        return Response(
            found.packed, media_type=found.kind, headers={**headers, "content-encoding": "gzip"}
        )
    return Response(found.body, media_type=found.kind, headers=headers)
