"""Logging: structlog for our lines and, through the same formatter, for everybody else's.

One line per event: JSON, or columns on a terminal. Keys and secrets are cut out of the finished
line, so that no route to the log, a foreign library's or a traceback's, can leak one.
"""

import logging
import sys
from collections.abc import Sequence
from typing import Any, Literal

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from reelwatch import secrecy
from reelwatch.settings import Settings

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


def configure(settings: Settings) -> None:
    """Send all log lines of this process to standard error, in the format that settings ask for."""
    level = getattr(logging, settings.log_level.upper())
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_formatter(settings))
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


class _Own(dict[str, Any]):
    """A line of ours, as the message of a record."""


def _wrapped(
    _logger: WrappedLogger, _method: str, line: EventDict
) -> tuple[tuple[_Own], dict[str, Any]]:
    return (_Own(line),), {}


class _Masking(structlog.stdlib.ProcessorFormatter):
    """Cuts secrets out of the finished text."""

    def __init__(self, renderers: Sequence[Processor]) -> None:
        remove_meta = structlog.stdlib.ProcessorFormatter.remove_processors_meta
        super().__init__(foreign_pre_chain=_shared(), processors=[remove_meta, *renderers])
        self._renderers = renderers
        self._clean = secrecy.redactor()

    def format(self, record: logging.LogRecord) -> str:
        try:
            line = self._rendered(record)
        except Exception as error:  # else Python prints the arguments as they are, secrets and all
            line = super().format(_unformattable(record, error))
        return self._clean(line)

    def _rendered(self, record: logging.LogRecord) -> str:
        """The line of a record. One of ours needs no copy of its record, which costs most here."""
        if not isinstance(record.msg, _Own):
            return super().format(record)
        line: Any = dict(record.msg)
        for render in self._renderers:
            line = render(None, "", line)
        return str(line)


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
        return [
            structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=plain)
        ]
    return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(default=str)]


def _shared() -> list[Processor]:
    return [
        structlog.contextvars.merge_contextvars,
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
