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
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, cast

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from reelwatch.config import secrecy
from reelwatch.config.folding import Folding, Own, exception_of
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


node: str | None = None  # the worker's or beat's name, on each of its lines


def configure(settings: Settings) -> None:
    """Send all log lines of this process to standard error, in the format that settings ask for."""
    level = getattr(logging, settings.log_level.upper())
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_formatter(settings))
    handler.addFilter(Folding(handler))
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


def of_each(logger: str, event: str, things: Iterable[Mapping[str, Any]]) -> None:
    """The same event of many things, at level info: a line for each, with its fields.

    What all of them share, the time included, is found once. Elsewhere than in a process that
    `configure` has set up they are lines like all others.
    """
    processors = structlog.get_config()["processors"]
    if not processors or processors[-1] is not _wrapped:
        own = structlog.get_logger(logger)
        for fields in things:
            own.info(event, **fields)
        return
    target = logging.getLogger(logger)
    if not target.isEnabledFor(logging.INFO):
        return
    shared: EventDict = {"event": event}
    for process in _shared():
        shared = cast(EventDict, process(target, "info", shared))
    for fields in things:
        line = {name: value for name, value in fields.items() if value is not None}
        line.update(shared)
        record = logging.LogRecord(logger, logging.INFO, "", 0, Own(line), (), None)
        target.handle(record)


def _wrapped(
    _logger: WrappedLogger, _method: str, line: EventDict
) -> tuple[tuple[Own], dict[str, Any]]:
    return (Own(line),), {}


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
        if not isinstance(line, Own):
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
    error = exception_of(line.pop("exc_info", None))
    if error is None:
        return line
    if lines.is_outage(error):
        line["error"] = lines.reason(error)
    else:
        line["exception"] = lines.traceback_text(error)
    return line


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
