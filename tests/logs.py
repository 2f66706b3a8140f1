"""What this process logs, as tests read it; and its logging put back as it was."""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from io import StringIO
from typing import Any

import structlog

from reelwatch.config import log
from reelwatch.config.settings import Settings


class Lines(StringIO):
    """What was logged, as JSON."""

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.getvalue().splitlines()]

    def named(self, event: str) -> list[dict[str, Any]]:
        return [line for line in self.lines if line["event"] == event]


@contextmanager
def logging_put_back() -> Iterator[None]:
    """What is done to the logging of this process meanwhile is undone."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    levels = {name: logging.getLogger(name).level for name in log.QUIET}
    structured = structlog.get_config()
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        for name, before in levels.items():
            logging.getLogger(name).setLevel(before)
        logging.captureWarnings(False)
        structlog.configure(**structured)
        structlog.contextvars.clear_contextvars()


@contextmanager
def caught() -> Iterator[Lines]:
    """Logging as a process of ours has it, into memory."""
    stream = Lines()
    with logging_put_back():
        log.configure(Settings(log_format="json"))
        (handler,) = logging.getLogger().handlers
        assert isinstance(handler, logging.StreamHandler)
        handler.setStream(stream)
        yield stream
