"""Commands about jobs: hand them in, list them, tell their story."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import IO, Any

import click

from reelwatch.cli import known, many, options, render
from reelwatch.cli.errors import WrongInput
from reelwatch.config import settings
from reelwatch.errors import Refused
from reelwatch.jobs import history, tracking
from reelwatch.rules import id_files, narrative
from reelwatch.rules.events import DEFAULT_EVENTS, SHORT_NAMES
from reelwatch.rules.states import FINAL, State
from reelwatch.rules.video_ids import check_video_ids
from reelwatch.rules.wording import plain
from reelwatch.storage import db, forecasts, jobrows
from reelwatch.storage.filters import STATES, JobFilter
from reelwatch.storage.models import Job

TOLD_ONE_BY_ONE = 20  # more jobs than this are counted, not listed


@click.command()
@click.argument("ids", metavar="[ID…]", nargs=-1)
@click.option("--file", "file", type=click.File("rb"), metavar="FILE",
              help="Read ids from a file: lines, CSV or JSON; - is standard input.")  # fmt: skip
@click.option("--webhook-url", metavar="URL", help="Tell this URL. Default: WEBHOOK_URL, if set.")
@click.option("--callback-task", metavar="NAME", help="Call this Celery task.")
@click.option("--callback-queue", metavar="Q", help="… in this queue; default: celery.")
@options.channels
@options.account
@click.option("--metadata", type=options.JsonObject(), metavar="JSON",
              help="A JSON object that comes back with every event.")  # fmt: skip
@click.option("--deadline", metavar="SPAN", help="When to stop hoping: 45m. Default: 1h.")
@click.option("--events", type=options.Names(), metavar="LIST",
              help=f"What to tell, out of {', '.join(SHORT_NAMES)}. "
              f"Default: {', '.join(DEFAULT_EVENTS)}.")  # fmt: skip
@options.as_json
def track(ids: Sequence[str], file: IO[bytes] | None, as_json: bool, **order: Any) -> None:
    """Track videos until their fate is known.

    Tracking an id again is harmless: it stays one job, as it was handed in first. What is said
    otherwise the second time is named; `reelwatch update` changes it.

    \b
    reelwatch track veo3.1-fast:1770350082-trii1OXZc3 \\
        --webhook-url https://app.example.com/hooks/video --metadata '{"user": 7}'
    reelwatch track --file ids.txt --deadline 45m
    your-producer | reelwatch track --file -

    A file has one id a line, or is CSV (the column video_id, task_id or id, or else the first that
    holds ids) or JSON (a list, as `list --json` prints, or an object a line). Blank lines and lines
    that begin with # are skipped. If one line is bad, nothing of the file is stored. What a JSON
    object says itself, such as its account and metadata, goes before the options.
    """
    if not ids and file is None:
        raise click.UsageError("name at least one ID, or a --file of them")
    url = options.database()
    _check_signing(order)
    named = [(video_id, order) for video_id in check_video_ids(ids)]
    wanted = [*named, *_wanted_of(file, order)]
    orders = _by_order(wanted)
    _check_orders(url, orders, order)
    total = sum(len(each.ids) for each in orders)
    done = many.through(_track_all(url, orders), total, "took in {} id", len)
    jobs = list(chain.from_iterable(done))
    _tell_untold(jobs)
    if as_json:
        render.print_json(
            [
                history.job_row(job) | {"created": job.created, "differs": job.differs}
                for job in jobs
            ]
        )
    else:
        _tell_tracked(jobs)


def _check_signing(order: Mapping[str, Any]) -> None:
    """Workers sign; but whoever types this beside them is told at once that nobody could."""
    current = settings.current()
    account = current.accounts.get(order["account"])
    called = order["webhook_url"] or (account and account.webhook_url)
    if account and called and not current.secrets_of(account.name):
        variable = current.secret_variable(account.name)
        raise WrongInput(
            f"webhook_url: webhooks are signed and {variable} is not set "
            "(`reelwatch secret` makes one)"
        )


@dataclass(frozen=True, slots=True)
class _Orders:
    """What is said of which ids, each once."""

    said: Mapping[str, Any]
    ids: dict[str, None] = field(default_factory=dict)


def _wanted_of(
    file: IO[bytes] | None, order: Mapping[str, Any]
) -> list[tuple[str, Mapping[str, Any]]]:
    """The file's ids, each checked, with what is said of each: by itself, or else by the options.

    `WrongInput` names the first line that is wrong.
    """
    if file is None:
        return []
    name = getattr(file, "name", "<stdin>")
    try:
        found = id_files.read(file.read(), name)
    except Refused as error:
        raise WrongInput(f"{error}; nothing was stored") from None
    click.echo(found.told(name), err=True)
    own = found.orders or [{}] * len(found.ids)
    return [(video_id, {**order, **said}) for video_id, said in zip(found.ids, own, strict=True)]


def _by_order(wanted: Sequence[tuple[str, Mapping[str, Any]]]) -> list[_Orders]:
    """Those of which the same is said together; what is said first of an id counts."""
    found: dict[str, _Orders] = {}
    seen = set()
    for video_id, order in wanted:
        key = (str(order["account"]), video_id)
        if key not in seen:
            seen.add(key)
            text = json.dumps(order, sort_keys=True)
            found.setdefault(text, _Orders(order)).ids[video_id] = None
    return list(found.values())


def _check_orders(url: str, orders: Sequence[_Orders], options: Mapping[str, Any]) -> None:
    """All of them, before the first is stored; what the options alone say, its first ids check."""
    if [each.said for each in orders] == [options]:
        return
    with db.reading(url) as session:
        for each in orders:
            try:
                tracking.check_order(session, **each.said)
            except Refused as error:
                whose = "" if each.said == options else f"{next(iter(each.ids))}: "
                raise WrongInput(f"{whose}{error}; nothing was stored") from None
            _check_signing(each.said)


def _track_all(url: str, orders: Iterable[_Orders]) -> Iterator[list[Job]]:
    for each in orders:
        for chunk in jobrows.chunks(each.ids):
            with db.transaction(url) as session:
                jobs = tracking.track_many(chunk, **each.said, session=session)
            yield jobs


def _tell_untold(jobs: Sequence[Job]) -> None:
    """Nobody is called about a job without a receiver: that may be meant, or forgotten."""
    silent = [job for job in jobs if not (job.webhook_url or job.callback_task or job.channels)]
    if silent and any(job.created for job in silent):
        whose = "of them " if len(silent) < len(jobs) else ""
        click.echo(
            f"{len(silent)} {whose}without a receiver: nobody is called about how they end; "
            "--webhook-url or --callback-task names one, GET /api/v1/events tells without",
            err=True,
        )


def _tell_tracked(jobs: Sequence[Job]) -> None:
    if len(jobs) > TOLD_ONE_BY_ONE:
        new = sum(job.created for job in jobs)
        other = sum(bool(job.differs) for job in jobs)
        differ = f", {other} of them differently (--json says in what)" if other else ""
        click.echo(f"tracking {new} videos; {len(jobs) - new} were tracked already{differ}")
        return
    for job in jobs:
        click.echo(f"tracking {plain(job.video_id)}" if job.created else _known(job))


def _known(job: Job) -> str:
    """What is said of a job that was there: what it does not take over, and what would help."""
    name = plain(job.video_id)
    said = f"already tracked {name}: {job.state}"
    if job.differs:
        said += f"; differs in {', '.join(job.differs)}"
    account = "" if job.account == "default" else f" --account {job.account}"
    if job.state == State.CANCELLED:
        return f"{said}; `reelwatch recheck {name}{account}` takes it up again"
    if not job.differs:
        return said
    if job.state in FINAL:
        return f"{said}: it has ended, and stays as it is"
    options = " ".join(f"--{each.replace('_', '-')} …" for each in job.differs)
    return f"{said}: `reelwatch update {name}{account} {options}` changes it"


@click.command()
@click.argument("video_id", metavar="ID")
@options.account
@options.as_json
def show(video_id: str, account: str, as_json: bool) -> None:
    """Tell a job's whole story: every change, error and attempt to tell its producer.

    \b
    reelwatch show veo3.1-fast:1770350082-trii1OXZc3
    reelwatch show veo3.1-fast:1770350082-trii1OXZc3 --json | jq .transitions
    """
    with db.reading(options.database()) as session:
        now = db.now(session)
        story = history.story(session, video_id, account, signatures=True)
        awaited = forecasts.awaited(session, story["job"])
        no_eta = awaited or forecasts.why_none(session, story["job"])
    if as_json:
        render.print_json(story)
    else:
        job = story["job"] | ({"eta": None} if awaited else {})
        render.print_story(job, narrative.tell(story), now, no_eta)


@click.command("list")
@options.jobs_filter(("open", *STATES))
@options.limit
@options.as_json
def list_(limit: int, as_json: bool, metadata: Sequence[tuple[str, str]], **asked: Any) -> None:
    """List jobs, the newest first.

    \b
    reelwatch list --state failed --since 24h
    reelwatch list --model veo3.1-fast --metadata order=42
    reelwatch list --limit 1000 --json | jq -r '.[] | [.video_id, .state] | @tsv'

    --metadata finds texts and numbers that are written so. It, --model and --prefix have no index:
    in a long history --since or --account makes them quick. --state open finds what is polled
    still, in any state.
    """
    unended = asked["state"] == "open"
    state = None if unended else asked["state"]
    wanted = JobFilter(metadata=dict(metadata), **asked | {"state": state})
    with db.reading(options.database()) as session:
        now = db.now(session)
        # One more than asked for, to know whether there are more.
        found = history.list_jobs(session, wanted, limit=limit + 1, unended=unended)
        if not found:
            known.check_account(session, wanted.account)
    rows = found[:limit]
    if as_json:
        render.print_json(rows)
    elif rows:
        render.print_jobs(rows, now)
    else:
        click.echo("no such jobs", err=True)
    if len(found) > limit:
        click.echo(f"there are more than {limit}: --limit shows more", err=True)
