"""Warnings that are said again and again: once in half a minute, and counted."""

import logging
import sys
import threading
import time
from typing import Any

import structlog

from reelwatch.rules import lines

AGAIN_SECONDS = 30.0  # equal lines within this time are counted, not written
REMEMBERED = 200  # different lines that are counted at once


class Own(dict[str, Any]):
    """A line of ours, as the message of a record."""


def exception_of(exc_info: Any) -> BaseException | None:
    if isinstance(exc_info, BaseException):
        return exc_info
    found = exc_info if isinstance(exc_info, tuple) else sys.exc_info() if exc_info else ()
    error = found[1] if len(found) > 1 else None
    return error if isinstance(error, BaseException) else None


class Folding(logging.Filter):
    """Lets a warning or an error through once in half a minute, and counts the others.

    Ours are the same if all their fields are; of others' lines numbers and ids may differ.
    """

    def __init__(self, handler: logging.Handler) -> None:
        super().__init__()
        self._handler = handler
        self._lock = threading.Lock()
        self._told: dict[str, tuple[float, int, logging.LogRecord]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Is the record to be told?"""
        if getattr(record, "again", None) is not None:
            return True
        with self._lock:
            due = self._ended()
            tell = record.levelno < logging.WARNING or self._count(record)
        for each, count in due:
            self._handler.handle(_again(each, count))
        return tell

    def _count(self, record: logging.LogRecord) -> bool:
        key = _key(record)
        if key in self._told:
            began, count, first = self._told[key]
            self._told[key] = (began, count + 1, first)
            return False
        if len(self._told) < REMEMBERED:
            self._told[key] = (time.monotonic(), 0, record)
        return True

    def _ended(self) -> list[tuple[logging.LogRecord, int]]:
        """The lines whose half minute is over, and how often each was said again."""
        if not self._told:
            return []
        before = time.monotonic() - AGAIN_SECONDS
        over = [key for key, (began, _, _) in self._told.items() if began <= before]
        ended = [self._told.pop(key) for key in over]
        return [(record, count) for _, count, record in ended if count]


def _key(record: logging.LogRecord) -> str:
    error = exception_of(record.exc_info)
    if isinstance(record.msg, Own):
        fields = dict(record.msg)
        error = exception_of(fields.pop("exc_info", None))
        said = lines.same(fields, ("timestamp", "batch", "task", "task_id"))
    else:
        said = lines.unchanging(_message(record))
    return (
        f"{record.name} {record.levelno} {said} {error and lines.unchanging(lines.reason(error))}"
    )


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception:
        return str(record.msg)


def _again(record: logging.LogRecord, count: int) -> logging.LogRecord:
    """The record once more, as of now, with how often it was said in between."""
    copy = logging.makeLogRecord({**record.__dict__, "again": count})
    if isinstance(record.msg, Own):
        now = structlog.processors.TimeStamper(fmt="iso", utc=True)(None, "", {})
        copy.msg = Own({**record.msg, **now, "again": count})
    return copy
