"""Waiting for events without holding a connection: one question a second, however many wait."""

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from contextlib import suppress
from typing import Any, TypeVar

import structlog
from anyio import to_thread
from sqlalchemy.exc import SQLAlchemyError

from reelwatch.errors import first_line
from reelwatch.jobs import feed
from reelwatch.storage.feed import Head

log = structlog.get_logger(__name__)

ASK_SECONDS = 1.0

T = TypeVar("T")


class Waiting:
    """Who waits for the feed in this process, and how far it has come."""

    def __init__(self, url: str, ending: asyncio.Event) -> None:
        """`ending` is set when the server ends: nobody waits any longer then."""
        self._url, self._ending = url, ending
        self._position = 0
        self._moved = asyncio.Event()
        self._waiting = 0
        self._asking: asyncio.Task[None] | None = None
        self._reads: dict[Hashable, asyncio.Task[Any]] = {}

    async def head(self) -> Head:
        """How far the feed has come. Who asks at the same time gets the same answer."""
        return await self.shared("head", lambda: feed.advance(self._url))

    async def shared(self, key: Hashable, read: Callable[[], T]) -> T:
        """What is read in a thread: once for all who ask for the same at the same time."""
        task = self._reads.get(key)
        if task is None:
            task = self._reads[key] = asyncio.create_task(to_thread.run_sync(read))
            task.add_done_callback(lambda _: self._reads.pop(key))
        found: T = await asyncio.shield(task)
        return found

    async def beyond(self, position: int, seconds: float) -> None:
        """Return when the feed has come beyond that position, or after so long."""
        self._waiting += 1
        if self._asking is None:
            self._asking = asyncio.create_task(self._ask())
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._until(lambda: self._position > position)
        finally:
            self._waiting -= 1

    async def _until(self, holds: Callable[[], bool]) -> None:
        while not holds() and not self._ending.is_set():
            await first_of(self._moved.wait(), self._ending.wait())

    async def _ask(self) -> None:
        """Ask, while somebody waits, how far the feed has come; wake all when it has moved."""
        try:
            while self._waiting and not self._ending.is_set():
                try:
                    head = await self.head()
                    if head.last_position != self._position:
                        self._position = head.last_position
                        self._moved.set()
                        self._moved = asyncio.Event()
                except SQLAlchemyError as error:  # they go on waiting, it may come back in time
                    log.warning("feed_not_read", error=first_line(error))
                await first_of(self._ending.wait(), asyncio.sleep(ASK_SECONDS))
        finally:
            self._asking = None


async def first_of(*waits: Awaitable[Any]) -> None:
    """Return when one of them is over."""
    tasks = [asyncio.ensure_future(each) for each in waits]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
