"""Options that commands share, how their values are read, and the way to the database."""

import getpass
import json
import os
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import click

from reelwatch.cli.errors import Failure
from reelwatch.config import log, settings
from reelwatch.rules import durations
from reelwatch.rules.channels import NAMED
from reelwatch.rules.retry import DeliveryState
from reelwatch.rules.webhook_secrets import ACCEPTED, parse_secrets

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
            return durations.parse_moment(str(value).strip(), datetime.now(UTC))
        except (ValueError, OverflowError):
            accepted = durations.MOMENT_FORMS
            self.fail(f"{value!r}{_units(value)}; accepted: {accepted}", param, ctx)


def _units(value: object) -> str:
    """A hint for a span without its unit."""
    text = str(value).strip()
    bare = text.isascii() and text.replace(".", "", 1).isdecimal()
    if bare and not float(text):
        return f" has no unit: {text}s?"
    return f" has no unit: {text}s? {text}m? {text}h? {text}d?" if bare else ""


class Span(click.ParamType):  # type: ignore[type-arg]
    """A span of time such as `90d`."""

    name = "duration"
    forms = durations.DURATION_FORMS

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> timedelta:
        """The span."""
        try:
            return timedelta(seconds=durations.parse_duration(value))
        except (ValueError, OverflowError):
            self.fail(f"{value!r}; accepted: {self.forms}; at most {durations.LONGEST}", param, ctx)


class SpanWithUnit(Span):
    """The same where much depends on it: `600` could be seconds as well as days."""

    forms = durations.FORMS_WITH_UNIT

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> timedelta:
        """The span."""
        if _units(value):
            self.fail(f"{value!r}{_units(value)}", param, ctx)
        return super().convert(value, param, ctx)


class Secrets(click.ParamType):  # type: ignore[type-arg]
    """Secrets as in WEBHOOK_SECRET: what is wrong with one is said without showing it."""

    name = "secrets"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        """The secrets, one at least."""
        try:
            found = parse_secrets(value)
        except ValueError:
            found = ()
        if not found:
            self.fail(f"accepted: {ACCEPTED}", param, ctx)
        return found


class Pair(click.ParamType):  # type: ignore[type-arg]
    """`KEY=VALUE`."""

    name = "pair"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str]:
        """The two, as texts."""
        if isinstance(value, tuple):
            return value
        key, equals, text = str(value).partition("=")
        if not key or not equals:
            self.fail(f"{value!r}; accepted: KEY=VALUE", param, ctx)
        return key, text


class Names(click.ParamType):  # type: ignore[type-arg]
    """Names with commas between."""

    name = "names"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> list[str]:
        """The names in order."""
        parts = value if isinstance(value, list) else str(value).split(",")
        names = [name.strip() for name in parts if name.strip()]
        if not names:
            self.fail(f"{value!r} names nothing; without the option the default holds", param, ctx)
        return names


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


class _Way(click.ParamType):  # type: ignore[type-arg]
    """`channel=target`."""

    name = "way"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str]:
        """The channel and the target."""
        name, sign, target = str(value).partition("=")
        if not sign:
            self.fail("a channel and its target are accepted, such as stream=videos", param, ctx)
        return name, target


def _as_object(_ctx: object, _param: object, ways: Sequence[tuple[str, str]]) -> Any:
    return dict(ways) or None


def channels(command: Command) -> Command:
    """`--channel`, once for each."""
    return click.option(
        "--channel", "channels", type=_Way(), multiple=True, callback=_as_object,
        metavar="CHANNEL=NAME", help=f"Tell by this channel, too ({', '.join(NAMED)}).",
    )(command)  # fmt: skip


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


def since_until(what: str) -> Callable[[Command], Command]:
    """`--since` and `--until`."""

    def both(command: Command) -> Command:
        told = f"{what} since then: 3h (ago), 2026-02-06T03:58:49Z."
        since = click.option("--since", type=Moment(), metavar="T", help=told)
        until = click.option("--until", type=Moment(), metavar="T", help="… and before then.")
        return since(until(command))

    return both


def jobs_filter(states: Sequence[str]) -> Callable[[Command], Command]:
    """The options of a filter of jobs; `wanted_jobs` reads them."""
    added: Sequence[Callable[[Command], Command]] = (
        click.option("--state", type=click.Choice(states), help="Only in this state."),
        click.option("--account", metavar="A", help="Of this upstream account."),
        click.option("--model", metavar="M", help="Only of this model."),
        click.option("--prefix", metavar="P", help="Whose ids begin so."),
        click.option("--metadata", type=Pair(), multiple=True, metavar="KEY=VALUE",
                     help="With this in their metadata; may be given several times."),
        since_until("Tracked"),
    )  # fmt: skip

    def all_of_them(command: Command) -> Command:
        for option in reversed(added):
            command = option(command)
        return command

    return all_of_them


def events_filter(command: Command) -> Command:
    """The options of a filter of events, by the names of its fields."""
    states = click.Choice([state.value for state in DeliveryState])
    added: Sequence[Callable[[Command], Command]] = (
        click.option("--state", type=states, help="Only in this state."),
        click.option("--account", metavar="A", help="Of this upstream account."),
        click.option("--endpoint", metavar="E",
                     help="To this callback URL, host, task or task@queue."),
        since_until("Made"),
    )  # fmt: skip
    for option in reversed(added):
        command = option(command)
    return command


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


def who() -> str:
    """Who does what a command does, as `actions` keeps it: `cli:USER`."""
    try:
        return f"cli:{getpass.getuser()}"
    except (KeyError, OSError):  # a container's user may have no name
        return f"cli:{os.getuid()}"
