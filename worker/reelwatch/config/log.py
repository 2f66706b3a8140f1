"""Logging: structlog for our lines and, through the same formatter, for everybody else's.

One line per event: JSON, or columns on a terminal. Keys and secrets are cut out of the finished
line, so that no route to the log, a foreign library's or a traceback's, can leak one. What is said
again within half a minute is counted, and told with the next line that says the same.
"""

import contextlib
import json
import logging
import os
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any, Literal

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from reelwatch.config import secrecy
from reelwatch.config.settings import Settings
from reelwatch.rules import lines

# What others say only matters from a warning on: Celery's workers would report every tick.
QUIET = (
    "alembic",
    "amqp",
    "celery.app.trace",
    "celery.beat",
    "celery.worker.strategy",
    "kombu",
    "urllib3",
)


AGAIN_SECONDS = 30.0  # in which what says the same is counted, not told
REMEMBERED = 200  # different lines that are counted at once

node: str | None = None  # the worker's or beat's name, on each of its lines


def configure(settings: Settings) -> None:
    """Send all log lines of this process to standard error, in the format that settings ask for."""
    level = getattr(logging, settings.log_level.upper())
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_formatter(settings))
    handler.addFilter(_Folding(handler))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for name in QUIET:
        logging.getLogger(name).setLevel(level if level <= logging.DEBUG else logging.WARNING)
    logging.captureWarnings(True)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *_shared(),
            _wrapped,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,  # a later configure() must reach loggers used before it
    )


def take_over(name: str) -> None:
    """Whatever this process, a worker or beat of that name, would print itself becomes a line.

    Uncaught exceptions, those of threads included, and what fails while a line is written.
    """
    global node  # noqa: PLW0603 - the process has one name, and all its lines bear it
    node = name
    logging.raiseExceptions = False
    sys.excepthook = lambda _kind, error, _where: _uncaught(error)
    threading.excepthook = lambda about: _uncaught(about.exc_value, about.thread)
    sys.unraisablehook = lambda about: _uncaught(about.exc_value)


def _uncaught(error: BaseException | None, thread: threading.Thread | None = None) -> None:
    if isinstance(error, SystemExit):
        return
    name = thread.name if thread else None
    logger = structlog.get_logger(__name__)
    if isinstance(error, KeyboardInterrupt):
        logger.critical("interrupted", thread=name)
    else:
        logger.critical("uncaught", thread=name, exc_info=error)


def at_once(event: str, logger: str = __name__) -> None:
    """Tell it though the log may be in the middle of a line: from a signal handler."""
    said = {"name": logger, "levelno": logging.INFO, "levelname": "INFO", "msg": event}
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.StreamHandler):
            with contextlib.suppress(OSError, ValueError):  # nobody reads it, or no file
                line = handler.format(logging.makeLogRecord(said))
                os.write(handler.stream.fileno(), (line + "\n").encode())


def json_alone() -> bool:
    """Is JSON asked for by name, so that nothing else may be printed? Settings may be wrong yet."""
    return os.environ.get("LOG_FORMAT", "").strip().casefold() == "json"


def last_words(text: str) -> str:
    """What a process of ours says that can't even start: a line of JSON where that is wished.

    For people it is the text, as every command says it.
    """
    if not json_alone():
        return f"reelwatch: {text}"
    at = structlog.processors.TimeStamper(fmt="iso", utc=True)(None, "", {})
    return lines.as_json({"event": "not_started", "error": text, "level": "critical", **at})


class _Own(dict[str, Any]):
    """A line of ours, as the message of a record."""


def _wrapped(
    _logger: WrappedLogger, _method: str, line: EventDict
) -> tuple[tuple[_Own], dict[str, Any]]:
    return (_Own(line),), {}


class _Masking(logging.Formatter):
    """Makes the line of a record, ours or another library's, and cuts secrets out of it."""

    def __init__(self, renderers: Sequence[Processor]) -> None:
        super().__init__()
        self._foreign = [*_shared(), _said_by_celery]
        self._renderers = renderers
        self._clean = secrecy.redactor()

    def format(self, record: logging.LogRecord) -> str:
        try:
            line = self._line(record)
        except Exception as error:  # else Python prints the arguments as they are, secrets and all
            line = self._line(_unformattable(record, error))
        text = self._render(line)
        clean = self._clean(text)
        if len(clean) > lines.LIMIT or (clean is not text and not _is_whole(clean, text)):
            clean = self._clean(self._render(lines.shortened(line, self._clean)))
        return clean

    def _line(self, record: logging.LogRecord) -> dict[str, Any]:
        """What a record says. One of ours has been through all of this already."""
        line: Any = record.msg
        if not isinstance(line, _Own):
            line = {"event": record.getMessage(), "_record": record, "exc_info": record.exc_info}
            if record.stack_info:
                line["stack"] = record.stack_info
            for process in self._foreign:
                line = process(None, record.levelname.lower(), line)
            del line["_record"]
        return dict(_told(None, "", dict(line)))

    def _render(self, line: dict[str, Any]) -> str:
        rendered: Any = dict(line)
        for render in self._renderers:
            rendered = render(None, "", rendered)
        return str(rendered)


def _is_whole(clean: str, text: str) -> bool:
    """Is a line of JSON still one? A secret of digits is a part of numbers as well."""
    if not text.startswith("{"):
        return True
    try:
        json.loads(clean)
    except ValueError:
        return False
    return True


def _unformattable(record: logging.LogRecord, error: Exception) -> logging.LogRecord:
    said = {"name": record.name, "levelno": logging.ERROR, "levelname": "ERROR"}
    return logging.makeLogRecord(said | {"msg": f"can't be formatted ({error}): {record.msg!r}"})


def _formatter(settings: Settings) -> logging.Formatter:
    return _Masking(_renderers(_format(settings)))


def _format(settings: Settings) -> Literal["console", "json"]:
    return settings.log_format or ("console" if sys.stderr.isatty() else "json")


def _renderers(form: Literal["console", "json"]) -> Sequence[Processor]:
    if form == "console":
        # Not rich's tracebacks: they show local variables, and break lines within secrets.
        plain = structlog.dev.plain_traceback
        columns = structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=plain
        )
        return [lambda _logger, _method, line: lines.printable(line), columns]
    return [lambda _logger, _method, line: lines.as_json(line)]


def _shared() -> list[Processor]:
    return [
        structlog.contextvars.merge_contextvars,
        _named,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        _without_absent,
    ]


def _without_absent(_logger: WrappedLogger, _method: str, line: EventDict) -> EventDict:
    """A line says what is there: fields without a value only make it longer."""
    kept: dict[str, Any] = {name: value for name, value in line.items() if value is not None}
    return kept


def _named(_logger: WrappedLogger, _method: str, line: EventDict) -> EventDict:
    if node is not None:
        line["worker"], line["pid"] = node, os.getpid()
    return line


# ---------------------------------------------------- exceptions, and others' lines


def _told(_logger: WrappedLogger, _method: str, line: EventDict) -> EventDict:
    """An exception as text: an outage in a line, anything else with its traceback."""
    error = _exception(line.pop("exc_info", None))
    if error is None:
        return line
    if lines.is_outage(error):
        line["error"] = lines.reason(error)
    else:
        line["exception"] = lines.traceback_text(error)
    return line


def _exception(exc_info: Any) -> BaseException | None:
    if isinstance(exc_info, BaseException):
        return exc_info
    found = exc_info if isinstance(exc_info, tuple) else sys.exc_info() if exc_info else ()
    error = found[1] if len(found) > 1 else None
    return error if isinstance(error, BaseException) else None


def _said_by_celery(_logger: WrappedLogger, _method: str, line: EventDict) -> EventDict:
    """A task's failure in our words: Celery's line has the traceback three times in it."""
    data = line.get("data")
    if line.get("logger") == "celery.app.trace" and isinstance(data, dict):
        del line["data"]
        said = str(data.get("description"))
        line["event"] = "task_failed" if said.startswith("raised") else f"task_{said}"
        line.update(task=data.get("name"), task_id=data.get("id"), error=str(data.get("exc")))
    else:
        line["event"] = " ".join(str(line.get("event")).split())
    return line


# ------------------------------------------------------------------ again and again


class _Folding(logging.Filter):
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
    error = _exception(record.exc_info)
    if isinstance(record.msg, _Own):
        fields = dict(record.msg)
        error = _exception(fields.pop("exc_info", None))
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
    if isinstance(record.msg, _Own):
        now = structlog.processors.TimeStamper(fmt="iso", utc=True)(None, "", {})
        copy.msg = _Own({**record.msg, **now, "again": count})
    return copy
