"""Commands that run things: everything in one process, the demo, the sandbox, housekeeping."""

import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import suppress
from importlib.metadata import version
from typing import Any

import click
import structlog
from click.core import ParameterSource

from reelwatch.app import embedded
from reelwatch.cli import many, options, render, web
from reelwatch.cli.errors import not_served
from reelwatch.config import log, secrecy, settings
from reelwatch.config.accounts import Account
from reelwatch.config.tokens import parse_tokens
from reelwatch.jobs import history, pausing
from reelwatch.rules.redaction import shown_url
from reelwatch.rules.rests import by_hand, rest_of
from reelwatch.rules.wording import clock
from reelwatch.sandbox import upstream as sandbox
from reelwatch.storage import db, migrating
from reelwatch.storage.counts import at_most


@click.command()
@click.option("--keep", is_flag=True, envvar="KEEP", help="Stay until Ctrl-C, for the page to be "
              "looked at; at a terminal it does so anyway.")  # fmt: skip
@click.pass_context
def demo(ctx: click.Context, keep: bool) -> None:
    """See the whole way work, on this machine alone: 25 videos from id to verified webhook.

    Nothing needs to be configured or running. It takes about a minute; its database stays in a
    temporary folder, for you to look at with the commands it names at the end.

    \b
    reelwatch demo
    """
    from reelwatch.cli import demo as show  # noqa: PLC0415 - no other command here needs it

    console = render.console()
    ctx.exit(show.run(console, keep=keep or console.is_interactive))


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Where to serve the page.")
@click.option("--port", default=web.PORT, show_default=True, type=click.IntRange(0, 65535),
              help="0, or if it is not given and taken: any that is free.")  # fmt: skip
@click.option("--no-web", is_flag=True, help="Serve no page and no API.")
@click.pass_context
def up(ctx: click.Context, host: str, port: int, no_web: bool) -> None:
    """Run everything in one process: polls, webhooks, the clock that drives them, and the page.

    Brings the database to the newest revision first. Without configuration it uses an SQLite
    database in this folder, an in-memory broker, and a webhook secret it makes and keeps beside the
    database. Ctrl-C or SIGTERM ends it; what was under way is taken up at the next start.

    \b
    QUICKROUTER_API_KEY=sk-… reelwatch up
    DATABASE_URL=postgresql://app@db/reelwatch reelwatch up

    For several machines, run `celery -A reelwatch worker` and `celery -A reelwatch beat` with
    BROKER_URL and DATABASE_URL set.
    """
    current = embedded.prepare(os.environ)
    settings.current.cache_clear()  # what was prepared is in the environment now
    secrecy.outlive_readers()
    log.configure(current)
    named = ctx.get_parameter_source("port") is not ParameterSource.DEFAULT
    ports = () if no_web else (port,) if named else (port, 0)
    with web.beside(current, host, *ports) as page:
        said = list(_greeting(current, None if no_web else page.said))
        if log.json_alone():
            in_a_line = [" ".join(line.split()) for line in said]
            structlog.get_logger(__name__).info("up_starting", said=in_a_line)
        else:
            click.echo("\n".join(said))
        ctx.exit(embedded.run(current.database_url, page.start))


def _greeting(current: settings.Settings, page: str | None = None) -> Iterator[str]:
    yield f"Reelwatch {version('reelwatch')}, everything in one process; Ctrl-C ends it."
    yield f"  database  {shown_url(current.database_url)}"
    broker = "in this process" if current.in_memory else shown_url(current.broker)
    yield f"  broker    {broker}"
    for account in current.accounts.values():
        key = "key set" if account.api_key else f"NO KEY: set {account.api_key_env}; its jobs wait"
        how = f"{account.requests_per_second:g} requests/s, {key}{_signed_apart(account)}"
        yield f"  account   {account.name}: {account.base_url}, {how}"
    hook = current.webhook_url  # what follows its `?` may be a token
    target = hook.partition("?")[0] if hook else "the URL that each job names"
    yield f"  webhooks  to {target}, {_signed(current)}"
    if page is not None:
        yield f"  page      {page}"
    yield "Track a video from another terminal:  reelwatch track ID --webhook-url https://…"
    yield "and see what becomes of it:           reelwatch watch"


def _signed_apart(account: Account) -> str:
    variable = account.webhook_secret_env
    if variable is None:
        return ""
    if account.webhook_secrets:
        return f", webhooks signed with {variable}"
    return f", NO WEBHOOK SECRET: set {variable}; its webhooks wait"


def _signed(current: settings.Settings) -> str:
    if current.webhook_secrets:
        return "signed with WEBHOOK_SECRET"
    if current.secrets and current.sqlite_path is not None:
        return f"signed with the secret in {secrecy.secret_file(current.sqlite_path)}"
    return "refused until WEBHOOK_SECRET is set (`reelwatch secret` makes one)"


@click.command("sandbox")
@click.option("--host", default="127.0.0.1", show_default=True, help="Where to serve.")
@click.option("--port", default=8787, show_default=True, type=click.IntRange(0, 65535))
@click.option("--rate-limit", type=click.IntRange(1, options.MOST), metavar="N",
              help="Answer 429 beyond so many requests a second and key.")  # fmt: skip
def sandbox_(host: str, port: int, rate_limit: int | None) -> None:
    """Run a local stand-in of the upstream, whose jobs are scripted by their ids.

    \b
    reelwatch sandbox
    reelwatch sandbox --rate-limit 5

    Point Reelwatch at it and hand in any id; what it says happens:

    \b
    export QUICKROUTER_BASE_URL=http://127.0.0.1:8787 QUICKROUTER_API_KEY=sandbox
    reelwatch track veo3.1-fast:ok.12s-a grok:policy.5s-b sora-2:flaky.20s-c
    """
    try:
        upstream = sandbox.Sandbox().start(host, port, rate_limit)
    except OSError as error:
        raise not_served(error, host, port) from None
    _tell_sandbox(upstream.url)
    with suppress(KeyboardInterrupt):
        upstream.serve_forever()
    figures = upstream.stats()
    click.echo(
        f"\n{figures['requests']} requests about {figures['ids']} ids, "
        f"at most {figures['max_in_one_second']} in one second"
    )


def _tell_sandbox(url: str) -> None:
    click.echo(f"The sandbox answers at {url} until Ctrl-C. Point Reelwatch at it:\n")
    click.echo(f"  export QUICKROUTER_BASE_URL={url} QUICKROUTER_API_KEY=sandbox")
    click.echo("  reelwatch up\n")
    click.echo("An id says what happens to its job: MODEL:SCRIPT.DURATION-ANYTHING, as in\n")
    click.echo("  reelwatch track veo3.1-fast:ok.12s-a grok:policy.5s-b\n")
    scripts = sandbox.SCRIPTS.values()
    render.print_table(
        ("SCRIPT", "WHAT HAPPENS", "THE JOB ENDS AS"),
        [(s.name, s.summary, f"{s.outcome} {s.error_code or ''}".strip()) for s in scripts],
    )


@click.command("accounts")
@click.option("--pause", "pause", metavar="NAME", help="Poll none of its jobs until it is resumed.")
@click.option(
    "--resume", "resume", metavar="NAME", help="Poll its due jobs now, whatever it rests for."
)
@click.option("--reason", default="", metavar="TEXT", help="Why it is paused; shown with it.")
@options.as_json
def accounts(pause: str | None, resume: str | None, reason: str, as_json: bool) -> None:
    """Show each upstream account: its key, the rate now in force, and whether it rests.

    \b
    reelwatch accounts
    reelwatch accounts --pause studio --reason "a new key on Monday"
    reelwatch accounts --resume studio

    An account rests while upstream refuses its key or its quota is used up; its jobs wait. A single
    poll finds out when it works again. One that was paused by hand rests until it is resumed; the
    deadlines of its jobs are told all the same.

    Its rate is lower than configured after a 429 and rises again while there is quiet. An account
    is short of requests while its jobs want more polls than the rate allows: those that have most
    likely ended are then polled first.
    """
    url, configured = options.database(), settings.current().accounts
    if reason and pause is None:
        raise click.UsageError("--reason goes with --pause")
    if pause is not None and resume is not None:
        raise click.UsageError("--pause and --resume: one of them")
    if pause is not None and not pausing.pause_account(pause, reason, by=options.who()):
        click.echo(f"{pause} is paused already", err=True)
    if resume is not None and not pausing.resume_account(resume, by=options.who()):
        click.echo(f"{resume} works already", err=True)
    with db.reading(url) as session:
        now, stored = db.now(session), history.list_accounts(session)
    rows = list(_joined(stored, configured))
    if as_json:
        render.print_json(rows)
        return
    titles = ("ACCOUNT", "KEY", "REQUESTS/S", "OPEN JOBS", "SINCE", "STANDING", "UPSTREAM")
    render.print_table(titles, [_account_cells(row, now) for row in rows])


def _joined(
    stored: list[dict[str, Any]], configured: Mapping[str, Account]
) -> Iterator[dict[str, Any]]:
    """What the database knows of each account, and what this process's settings say of it."""
    known = {row["name"]: row for row in stored}
    for name in sorted({*known, *configured}):
        account = configured.get(name)
        blank = {"name": name, "requests_per_second": None, "open_jobs": 0, "paused_until": None,
                 "pause_reason": None, "pauses_in_row": 0, "slowed_at": None,
                 "paused_since": None, "slowed_since": None, "look_price": 0.0}  # fmt: skip
        row = blank | known.get(name, {})
        rate = row.pop("configured_rate", None)  # the workers'
        yield (
            row
            | {
                "configured": account is not None,
                "configured_requests_per_second": rate or (account and account.requests_per_second),
                "base_url": account and account.base_url,
                "key_set": bool(account and account.api_key),
            }
        )


def _account_cells(row: Mapping[str, Any], now: Any) -> tuple[str, ...]:
    full, rate = row["configured_requests_per_second"], row["requests_per_second"]
    shown = rate or full
    slowed = f" of {full:g}" if full and rate and row["slowed_at"] and rate < full else ""
    begun = row["paused_since"] if row["pause_reason"] else row["slowed_since"] if slowed else None
    since = render.clock(begun) if begun else ""
    key = ("set" if row["key_set"] else "missing") if row["configured"] else "not configured"
    return (row["name"], key, f"{shown:.3g}{slowed}", at_most(row["open_jobs"]), since,
            _standing(row, now, slowed=bool(slowed)), row["base_url"] or "")  # fmt: skip


def _standing(row: Mapping[str, Any], now: Any, *, slowed: bool) -> str:
    rest = rest_of(row, now)
    if rest is not None and rest.until is None:
        return f"paused {by_hand(rest.reason, 'until it is resumed')}"
    if rest is not None:
        wait = (rest.until - now).total_seconds() if rest.until else 0.0
        return f"rests {wait:.0f} s more, until {clock(rest.until or now, now)}: {rest.reason}"
    said = ["slowed by 429"] if slowed else []
    if row["look_price"] > 0:
        said.append("short of requests: jobs wait for their polls")
    return ", ".join(said) or "works"


@click.command()
@click.option("--to", "to", default="head", metavar="REVISION",
              help="An older revision, or `base`: remove all tables.")  # fmt: skip
@click.option("--yes", is_flag=True, help="Remove tables or columns without asking.")
@options.as_json
def migrate(to: str, yes: bool, as_json: bool) -> None:
    """Bring the database to the newest revision; makes it if there is none. Harmless to repeat.

    \b
    DATABASE_URL=postgresql://app@db/reelwatch reelwatch migrate

    In another application's database it has a version table of its own, `reelwatch_version`, and
    leaves theirs alone. REELWATCH_SCHEMA puts all tables into a schema, or behind a prefix.
    """
    current = settings.current()
    log.configure(current)
    where = shown_url(current.database_url)
    back = migrating.goes_back(current.database_url, to)
    before, head = db.revisions(current.database_url)
    if back and not yes:
        lost = f"{where}: this would go back to {to}, and delete what is stored since"
        many.confirm(lost, "--yes does it")
    notes = migrating.migrate(current.database_url, to)
    after, _ = db.revisions(current.database_url)
    if as_json:
        render.print_json({"before": before, "revision": after, "notes": notes})
        return
    if not os.environ.get("DATABASE_URL"):
        click.echo("DATABASE_URL is not set: this is the SQLite file in this folder", err=True)
    for note in notes:
        click.echo(note)
    if before == after:
        newest = "the newest revision already" if after == head else "that revision already"
        click.echo(f"{where} is at {newest}: {after}")
    else:
        click.echo(f"{where}: {before or 'nothing'} → {after or 'nothing'}")


@click.command()
@click.option("--token", "caller", metavar="NAME:ROLE", help="Make a token of the API instead, for "
              "REELWATCH_API_TOKENS; the role is read, produce or operate.")  # fmt: skip
@options.as_json
def secret(caller: str | None, as_json: bool) -> None:
    """Make a new webhook secret and print it; nothing is stored, and it is not shown again.

    \b
    export WEBHOOK_SECRET=$(reelwatch secret)

    To change a secret in use, put the new one first and keep the old one until every receiver knows
    the new one: each event is signed with both.

    \b
    export WEBHOOK_SECRET="$(reelwatch secret) $WEBHOOK_SECRET"
    export REELWATCH_API_TOKENS="$(reelwatch secret --token shop:produce)"
    """
    made = embedded.new_secret() if caller is None else _new_token(caller)
    if as_json:
        render.print_json({"secret": made})
    else:
        click.echo(made)


def _new_token(caller: str) -> str:
    made = f"{caller}:{secrets.token_urlsafe(32)}"
    try:
        parse_tokens(made)
    except ValueError:
        accepted = "accepted: NAME:ROLE, with letters, digits and ._- and read, produce or operate"
        raise click.BadParameter(accepted, param_hint="--token") from None
    return made
