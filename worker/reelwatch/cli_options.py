"""Options that commands share, how their values are read, and the way to the database."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import click

from reelwatch import log, settings
from reelwatch.cli_errors import Failure

Command = TypeVar("Command", bound=Callable[..., Any])
MOST = 1_000_000_000  # of anything: no database counts as far as Python does

# Click's ParamType can be subscripted only since 8.4, hence the exceptions below.


class Moment(click.ParamType):  # type: ignore[type-arg]
    """A time in ISO 8601 (without a zone: UTC), or a span that ends now, such as `2h`."""

    name = "time"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> datetime:
        """The time in UTC."""
        if isinstance(value, datetime):
            return value
        try:
            return _moment(str(value).strip())
        except (ValueError, OverflowError):
            accepted = "2026-02-06T03:58:49Z, 2026-02-06, or a span before now such as 90m, 2h, 7d"
            self.fail(f"{value!r}; accepted: {accepted}", param, ctx)


def _moment(text: str) -> datetime:
    if settings.DURATION.fullmatch(text.casefold()):
        return datetime.now(UTC) - timedelta(seconds=settings.parse_duration(text))
    at = datetime.fromisoformat(text)
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).astimezone(UTC)


class Span(click.ParamType):  # type: ignore[type-arg]
    """A span of time such as `90d`."""

    name = "duration"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> timedelta:
        """The span."""
        try:
            return timedelta(seconds=settings.parse_duration(value))
        except (ValueError, OverflowError):
            self.fail(f"{value!r}; accepted: {settings.DURATION_FORMS}", param, ctx)


class JsonObject(click.ParamType):  # type: ignore[type-arg]
    """A JSON object."""

    name = "json"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> dict[str, Any]:
        """The object as a dict."""
        try:
            parsed = json.loads(value)
        except (ValueError, RecursionError) as error:
            self.fail(f"no JSON: {error}", param, ctx)
        if not isinstance(parsed, dict):
            self.fail("a JSON object is accepted, such as '{\"user\": 7}'", param, ctx)
        return parsed


def as_json(command: Command) -> Command:
    """`--json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)


def account(command: Command) -> Command:
    """`--account`, of the one account that an id belongs to."""
    return click.option(
        "--account", default="default", show_default=True, metavar="A", help="The upstream account."
    )(command)


def any_account(command: Command) -> Command:
    """`--account` as a filter."""
    return click.option("--account", metavar="A", help="Only this upstream account.")(command)


def limit(command: Command) -> Command:
    """`--limit`."""
    return click.option(
        "--limit", type=click.IntRange(1, MOST), default=50, show_default=True, metavar="N",
        help="So many at most.",
    )(command)  # fmt: skip


def database() -> str:
    """The URL of a database that can be there; logging is set up on the way."""
    current = settings.current()
    log.configure(current)
    path = current.sqlite_path
    if path is not None and not path.exists():  # opening it would make an empty one
        raise Failure(
            f"there is no database at {path.absolute()} (DATABASE_URL): "
            "`reelwatch up` or `reelwatch migrate` makes it"
        )
    return current.database_url
