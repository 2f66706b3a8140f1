"""`reelwatch doctor`: is everything there that polling and telling need? And if not, what to do."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any

import click
from redis.exceptions import RedisError
from rich.text import Text
from sqlalchemy.exc import SQLAlchemyError

from reelwatch.app import broker_check, installations
from reelwatch.cli import checks, errors, options, render
from reelwatch.cli.checks import OK, WARNING, WRONG, Check
from reelwatch.config import libpq, settings, trust
from reelwatch.config.accounts import WEBHOOK_SECRET, Account
from reelwatch.errors import ReelwatchError, SettingsError
from reelwatch.jobs import history, intake
from reelwatch.net import upstream
from reelwatch.rules import recognition
from reelwatch.rules.answers import ErrorKind, Report
from reelwatch.rules.outlook import TICK_MISSED
from reelwatch.rules.redaction import shown_url
from reelwatch.rules.rests import HELD, Rest, by_hand, rest_of
from reelwatch.rules.wording import clock, page_in_short, plain, span
from reelwatch.storage import database_check, db, indexes
from reelwatch.storage.counts import at_most
from reelwatch.storage.figures import summary, undelivered_webhooks

SIGNS: Mapping[str, tuple[str, str]] = {
    OK: ("✓", "green"),
    WARNING: ("!", "yellow"),
    WRONG: ("✗", "red"),
}

REFUSALS_SHOWN = 5
NO_SUCH_ID = "doctor:unknown.1s-reelwatch"  # no model makes such ids; the sandbox denies it, too
REFUSED = {
    ErrorKind.UNAUTHORIZED: "refuses the key: check {env}",
    ErrorKind.FORBIDDEN: "denies the key access",
    ErrorKind.QUOTA: "accepts the key, and its quota is used up",
}
BASE_URL = f"is the base URL right? It is what stands before {upstream.ROUTE}"
BUSY = frozenset({ErrorKind.RATE_LIMITED, ErrorKind.SATURATED})


@click.command()
@options.as_json
@click.pass_context
def doctor(ctx: click.Context, as_json: bool) -> None:
    """Check the installation: configuration, database, broker, ticks, accounts, webhooks.

    Asks upstream once per account, about an id that can't exist. Exit code 1 if anything is wrong;
    warnings (!) leave it 0.

    \b
    reelwatch doctor
    reelwatch doctor --json | jq '.checks[] | select(.status != "ok")'
    """
    checks = []
    for check in examine():
        checks.append(check)
        if not as_json:
            _print(check)
    wrong = [check.name for check in checks if check.status == WRONG]
    if as_json:
        found = [asdict(check) for check in checks]
        render.print_json({"ok": not wrong, "checks": found})
    if wrong:
        click.echo(f"reelwatch: wrong: {', '.join(wrong)}", err=True)
        ctx.exit(errors.FAILED)


def _print(check: Check) -> None:
    sign, style = SIGNS[check.status]
    said = Text.assemble((f"{check.name}: ", "bold"), plain(check.message))
    render.print_beside(Text(sign, style), said)


def examine() -> Iterator[Check]:
    """All checks, in an order in which a later one may need what an earlier one found."""
    try:
        current = settings.current()
    except ReelwatchError as error:
        yield Check("settings", WRONG, str(error))
        return
    yield _settings()
    yield from _environment(current)
    database = _database(current)
    yield database
    yield from _broker(current)
    if database.status == OK:
        with db.reading(current.database_url) as session:
            yield from checks.of_indexes(indexes.invalid(session.connection()))
        yield from _others(current)
    figures, standing = _read(current) if database.status == OK else (None, {})
    if figures is not None:
        yield _tick(current, figures)
    for account in current.accounts.values():
        yield from _account(current, account, standing.get(account.name, {}))
    if figures is not None:
        yield from _strangers(current, standing)
    yield from _secrets(current, figures)
    if figures is not None:
        with db.reading(current.database_url) as session:
            yield from checks.of_work(session, figures, standing.values(), db.now(session))
        yield from _intake(current)


def _settings() -> Check:
    try:
        trust.check()
    except SettingsError as error:
        return Check("settings", WRONG, str(error))
    return Check("settings", OK, "all values are accepted")


def _environment(current: settings.Settings) -> Iterator[Check]:
    """What is set and has no effect, and files that others may read."""
    for slip in current.slips():
        yield Check("environment", WARNING, slip)
    if current.sqlite_path is None and (ignored := libpq.ignored(current.database_options())):
        message = f"{', '.join(ignored)}: not read; DATABASE_URL says it all (?sslmode=require)"
        yield Check("environment", WARNING, message)
    for path in current.private_files():
        mode = path.stat().st_mode & 0o777
        if mode & 0o077:
            message = (
                f"{path} is open to others ({mode:o}), and prompts and tokens are in it: chmod 600"
            )
            yield Check("files", WARNING, message)


# ---------------------------------------------------------------- database


def _database(current: settings.Settings) -> Check:
    try:
        url = options.database()
        revision, head = db.revisions(url)
        read_only = db.read_only(url)
    except (errors.Failure, SQLAlchemyError, OSError) as error:
        return Check("database", WRONG, _failure_text(error))
    if revision and head and revision > head:
        found = f"{shown_url(url)}, at revision {revision}, newer than this program ({head})"
        return Check("database", OK, f"{found}: upgrade it soon")
    if revision != head:
        found = f"at revision {revision}" if revision else "at no revision"
        return Check("database", WRONG, f"{found}, needed is {head}: run `reelwatch migrate`")
    if read_only:
        found = f"{shown_url(url)} is read-only: a standby, or a primary that became one"
        return Check("database", WRONG, f"{found}; DATABASE_URL has to name the writable server")
    try:
        database_check.try_writing(url)
    except SQLAlchemyError as error:
        return Check("database", WRONG, _failure_text(error))
    return Check("database", OK, f"{shown_url(url)}, at revision {head}")


def _failure_text(error: Exception) -> str:
    known = error if isinstance(error, errors.Failure) else errors.failure(error)
    return str(known.message)


def _read(current: settings.Settings) -> tuple[dict[str, Any] | None, dict[str, dict[str, Any]]]:
    with db.reading(current.database_url) as session:
        now = db.now(session)
        figures = summary(session, now)
        rows = history.list_accounts(session)
    return figures, {row["name"]: row | {"now": now} for row in rows}


# ------------------------------------------------------------------ broker


def _broker(current: settings.Settings) -> Iterator[Check]:
    if current.in_memory:
        yield Check("broker", OK, "in memory: for `reelwatch up` alone (BROKER_URL is not set)")
        return
    where = shown_url(current.broker)
    try:
        found = broker_check.examine(current.broker)
    except broker_check.Unreachable as error:
        yield Check("broker", WRONG, f"{where} can't be reached: {error}")
        return
    yield Check("broker", OK, where)
    for each in found:
        yield Check(f"broker {each.what}", WRONG if each.wrong else WARNING, each.message)


def _others(current: settings.Settings) -> Iterator[Check]:
    """Does another installation take ids from the same queue?"""
    try:
        with db.reading(current.database_url) as session:
            mine = installations.identity(session)
        found = installations.others(current.broker, mine) if mine else []
    except (broker_check.Unreachable, RedisError, OSError):
        return  # as has been said
    if found:
        message = f"{', '.join(found[:3])} of another installation takes ids of this queue too"
        yield Check("broker is shared", WRONG, f"{message}: {installations.ADVICE}")


def _intake(current: settings.Settings) -> Iterator[Check]:
    """What producers sent and could not be taken in."""
    with db.reading(current.database_url) as session:
        now = db.now(session)
        waiting = intake.waiting(session)
        refused = intake.refused_since(session, now - timedelta(days=1))
    for held in waiting:
        since = span((now - held.since).total_seconds())
        found = f"{held.count} since {since}, as {held.example} for the account {held.account}"
        yield Check("waiting ids", WRONG, f"{found} ({held.worker}): {held.reason}")
    if not waiting:
        yield Check("waiting ids", OK, "none waits for a configuration")
    for row in refused[:REFUSALS_SHOWN]:
        shown = f", as {row.video_id}" if row.video_id else ""
        ago = span((now - row.last_at).total_seconds())
        found = f"{row.count}{shown}, the last {ago} ago"
        yield Check("refused messages", WARNING, f"{found} ({row.task}): {row.reason}")
    if not refused:
        yield Check("refused messages", OK, "none in the last day")


def _tick(current: settings.Settings, figures: Mapping[str, Any]) -> Check:
    age = figures["last_tick_age_seconds"]
    if figures["standby"]:
        causes = "does beat run, and has the broker room for its messages?"
        return Check("tick", WRONG, f"{figures['standby']}, less promptly: {causes}")
    start = "`reelwatch up`" if current.in_memory else "`celery -A reelwatch beat` and a worker"
    if age is None:
        # With nothing but `up` to make ticks this is a fresh installation, not a broken one.
        status = WARNING if current.in_memory else WRONG
        return Check("tick", status, f"never: nothing polls jobs until {start} runs")
    if age >= TICK_MISSED.total_seconds():
        found = f"the last one was {span(age)} ago, it should come every second"
        return Check("tick", WRONG, f"{found}: does {start} run?")
    return Check("tick", OK, f"{max(0.0, age):.1f} s ago")


# ---------------------------------------------------------------- accounts


def _account(
    current: settings.Settings, account: Account, row: Mapping[str, Any]
) -> Iterator[Check]:
    name = f"account {account.name}"
    if not account.api_key:
        idle = len(current.accounts) > 1 and not row.get("open_jobs")
        message = f"no API key here: set {account.api_key_env}; its jobs are left to others"
        yield Check(name, WARNING if idle else WRONG, message)
    else:
        yield _asked(name, account)
    rest = rest_of(row, row["now"]) if row else None
    if rest is not None:
        yield _rests(account.name, rest, row["now"])


def _rests(account: str, rest: Rest, now: datetime) -> Check:
    """By hand it is meant, and a hold ends by itself."""
    name = f"account {account} {'rests' if rest.reason == HELD else 'is paused'}"
    if rest.until is None:
        resume = f"`reelwatch accounts --resume {account}`"
        return Check(name, WARNING, by_hand(rest.reason, f"until {resume}"))
    wait = span((rest.until - now).total_seconds())
    again = f"until {clock(rest.until, now)}, a poll tries again in {wait}"
    status = WARNING if rest.reason == HELD else WRONG
    return Check(name, status, f"its jobs wait: {rest.reason}; {again}")


def _asked(name: str, account: Account) -> Check:
    poll = upstream.poll(account, NO_SUCH_ID, datetime.now(UTC))
    answer, host = poll.answer, account.base_url
    doubt = recognition.doubt(answer)
    if isinstance(answer, Report):
        return Check(name, WARNING, f"{host}: {doubt}: {BASE_URL}")
    if answer.kind is ErrorKind.NOT_FOUND:
        return Check(name, OK, f"{host} accepts the key, answered in {poll.duration_ms} ms")
    said = page_in_short(answer.message, answer.http_status)
    if answer.kind in REFUSED:
        refusal = REFUSED[answer.kind].format(env=account.api_key_env)
        but = f"; but {doubt}: {BASE_URL}" if doubt else ""
        return Check(name, WRONG, f"{host} {refusal} ({said}){but}")
    if answer.kind in BUSY:
        return Check(name, WARNING, f"{host} asks to slow down ({said})")
    if doubt:
        message = f"{host} does not look like the relay: {doubt}: {said}; {BASE_URL}"
        return Check(name, WRONG, message)
    hint = f"; {BASE_URL}" if recognition.wrong_place(answer) else ""
    return Check(name, WRONG, f"{host} gives no usable answer: {answer.kind.value}: {said}{hint}")


def _strangers(
    current: settings.Settings, standing: Mapping[str, Mapping[str, Any]]
) -> Iterator[Check]:
    """What waits for workers that know accounts which are not configured here."""
    with db.reading(current.database_url) as session:
        owed = {
            name: undelivered_webhooks(session, name)
            for name in standing
            if name not in current.accounts
        }
    for name, events in owed.items():
        counts = ((standing[name]["open_jobs"], "jobs"), (events, "webhooks"))
        waiting = [f"{at_most(count)} {what}" for count, what in counts if count]
        if waiting:
            message = "wait, and REELWATCH_ACCOUNTS_FILE does not name it"
            yield Check(f"account {name}", WRONG, f"{' and '.join(waiting)} {message}")


# ---------------------------------------------------------------- webhooks


def _secrets(current: settings.Settings, figures: Mapping[str, Any] | None) -> Iterator[Check]:
    """Can the webhooks of each account be signed?"""
    yield _secret("webhook secret", current, "default", figures)
    for account in current.accounts.values():
        if account.webhook_secret_env and account.name != "default":
            yield _secret(f"webhook secret of {account.name}", current, account.name, figures)


def _secret(
    name: str, current: settings.Settings, account: str, figures: Mapping[str, Any] | None
) -> Check:
    variable, found = current.secret_variable(account), current.secrets_of(account)
    if found:
        kept = variable == WEBHOOK_SECRET and not current.webhook_secrets
        return Check(name, OK, f"{len(found)}, {'kept beside the database' if kept else variable}")
    advice = f"{variable} is not set (`reelwatch secret` makes one)"
    waiting = _unsigned(current, variable) if figures is not None else 0
    if waiting:
        return Check(name, WRONG, f"{at_most(waiting)} webhooks can't be signed: {advice}")
    # A variable that is named on purpose is there on purpose.
    status = WARNING if variable == WEBHOOK_SECRET else WRONG
    return Check(name, status, f"webhooks are refused: {advice}")


def _unsigned(current: settings.Settings, variable: str) -> int:
    """How many webhooks are owed by the accounts whose secret is in that variable."""
    with db.reading(current.database_url) as session:
        names = [name for name in current.accounts if current.secret_variable(name) == variable]
        return sum(undelivered_webhooks(session, name) for name in names)
