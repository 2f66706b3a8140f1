"""Probes: `/live` for whoever restarts this process, `/ready` for whoever sends requests to it.

They are open, for orchestrators have no tokens; what is missing is named in a few words, without
addresses. What they find out holds for a second, however often they are asked.
"""

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta

from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.responses import JSONResponse
from sqlalchemy.exc import SQLAlchemyError

from reelwatch.config import tls
from reelwatch.config.settings import Settings
from reelwatch.rules import urls
from reelwatch.storage import db, heartbeat
from reelwatch.web.access import settings_of

HOLDS_SECONDS = 1.0
ANSWER_SECONDS = 5.0  # a probe that waits for longer is no answer to whoever asks
UNTOLD = "an answer of the database or the broker"
BROKER_SECONDS = 2.0
LATELY = timedelta(seconds=60)
PORTS = {"redis": 6379, "rediss": 6379, "amqp": 5672, "amqps": 5671}


@asynccontextmanager
async def _checking(app: FastAPI) -> AsyncIterator[None]:
    app.state.checks = Checks()
    yield


router = APIRouter(include_in_schema=False, lifespan=_checking)


@router.get("/live")
async def live() -> Response:
    """This process answers, whatever its threads wait for."""
    return Response(status_code=204)


@router.get("/ready")
async def ready(request: Request) -> Response:
    """Database, revision, broker, and a tick or poll of late."""
    missing = await request.app.state.checks.missing(settings_of(request))
    return JSONResponse({"ready": not missing, "missing": missing}, 503 if missing else 200)


class Checks:
    """What is missing, found out once for all who ask within a second.

    In one thread that is nobody else's: the others may all wait for the database.
    """

    def __init__(self) -> None:
        self._thread = CapacityLimiter(1)
        self._finding: asyncio.Task[list[str]] | None = None
        self._at = float("-inf")

    async def missing(self, settings: Settings) -> list[str]:
        """A few words for each that is."""
        finding = self._finding
        if finding is None or (finding.done() and time.monotonic() - self._at > HOLDS_SECONDS):
            finding = self._finding = asyncio.create_task(self._find_out(settings))
        await asyncio.wait([finding], timeout=ANSWER_SECONDS)
        return finding.result() if finding.done() else [UNTOLD]

    async def _find_out(self, settings: Settings) -> list[str]:
        found = await to_thread.run_sync(lambda: list(missing(settings)), limiter=self._thread)
        self._at = time.monotonic()
        return found


def missing(settings: Settings) -> Iterator[str]:
    """What is not there of all that work needs, a few words each."""
    try:
        with db.reading(settings.database_url) as session:
            ages = [heartbeat.age(session, name) for name in (heartbeat.TICK, heartbeat.WATCH)]
    except db.NotMigrated:
        yield "the database's revision"
    except (SQLAlchemyError, OSError):
        yield "the database"
    else:
        if not any(age is not None and age < LATELY for age in ages):
            yield "a tick or poll in the last minute"
    if not settings.in_memory and not _listens(settings.broker):
        yield "the broker"


def _listens(broker: str) -> bool:
    """Does any of the broker's addresses take a connection?"""
    parts = urls.parse(tls.read(broker).url.partition(";")[0])
    try:
        port = parts.port or PORTS[parts.scheme]
        socket.create_connection((parts.host or "localhost", port), BROKER_SECONDS).close()
    except OSError:
        return False
    return True
