"""Commands that change jobs: stop them, poll again, order otherwise, forget them."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any

import click

from reelwatch.cli import known, many, options, render
from reelwatch.cli.errors import Failure
from reelwatch.errors import HasEnded
from reelwatch.jobs import history, pruning, tracking, updating
from reelwatch.rules.states import OPEN, State
from reelwatch.rules.wording import plain
from reelwatch.storage import db, prospects, surveys
from reelwatch.storage.filters import STATES, JobFilter
from reelwatch.storage.models import Job
from reelwatch.storage.surveys import Survey

ENDS = [state for state in STATES if State(state) not in OPEN or state == State.EXPIRED]

Options = Mapping[str, Any]


@click.command()
@click.argument("ids", metavar="[ID…]", nargs=-1)
@options.jobs_filter([state for state in STATES if state in OPEN])
@many.consent
@options.as_json
def cancel(ids: Sequence[str], as_json: bool, **asked: Any) -> None:
    """Stop tracking videos. Upstream goes on with them; nobody is told how they end.

    Name them, or choose those that go on by the filters of `list`: then it says how many they are
    and asks; a script says --yes.

    \b
    reelwatch cancel veo3.1-fast:1770350082-trii1OXZc3
    reelwatch cancel --model veo3.1-fast --metadata batch=november --dry-run

    A job that has ended already stays as it is. If one id is unknown, nothing is changed. Ctrl-C
    ends it after some hundreds, and says how many were cancelled.
    """
    if ids:
        jobs = _changed(tracking.cancel_many, ids, asked)
        _tell_changed(jobs, as_json, "cancelled")
    else:
        words = ("cancel {} job", "cancelled {} job")
        _many(surveys.to_cancel, tracking.cancel_chosen, words, asked, as_json=as_json)


@click.command()
@click.argument("ids", metavar="[ID…]", nargs=-1)
@options.jobs_filter(STATES)
@many.consent
@options.as_json
def recheck(ids: Sequence[str], as_json: bool, **asked: Any) -> None:
    """Poll jobs again as soon as a worker is free.

    A job that is expired or cancelled, or that failed because upstream did not know its id, is
    taken up again and gets its deadline anew. One that was completed without a URL stays completed
    and is asked for it once more. Any other end stays.

    Name them, or choose them by the filters of `list`: then it says how many they are and asks; a
    script says --yes.

    \b
    reelwatch recheck veo3.1-fast:1770350082-trii1OXZc3
    reelwatch recheck --state expired --since 24h
    """
    if ids:
        jobs = _changed(tracking.recheck_many, ids, asked)
        [when] = _when({jobs[0].account: len(jobs)})
        _tell_changed(jobs, as_json, f"will be polled {when}:")
    else:
        words = ("poll {} job", "rechecked {} job")
        change = tracking.recheck_chosen
        _many(surveys.to_recheck, change, words, asked, as_json=as_json, when=_when)


def _when(counts: Mapping[str, int]) -> Counter[str]:
    """When jobs are polled that have been asked for now, and how many then; of so many by account.

    As in `now`; a paused account's wait until it is resumed.
    """
    found: Counter[str] = Counter()
    with db.reading(options.database()) as session:
        now = db.now(session)
        for account in sorted(counts):
            found[prospects.when_asked(session, account, now)] += counts[account]
    return found


def _changed(change: Callable[..., list[Job]], ids: Sequence[str], asked: Options) -> list[Job]:
    """All of them in one transaction, or none."""
    if asked["dry_run"]:
        raise click.UsageError("--dry-run counts what options choose; IDs say already which it is")
    others = {name for name, value in asked.items() if value and name not in ("account", "yes")}
    if others:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in sorted(others))
        raise click.UsageError(f"{names} chooses jobs by itself, without IDs")
    with db.transaction(options.database()) as session:
        account = asked["account"] or "default"
        return change(ids, account=account, session=session, by=options.who())


def _tell_changed(jobs: Sequence[Job], as_json: bool, done: str) -> None:
    if as_json:
        render.print_json([history.job_row(job) | {"changed": job.changed} for job in jobs])
        return
    for job in jobs:
        name = plain(job.video_id)
        stays = f"stays as it is: {name} has ended, {job.state}"
        click.echo(f"{done} {name}" if job.changed else stays)


def _many(
    survey: Callable[[str, JobFilter], Survey],
    change: Callable[..., Iterator[Any]],
    words: tuple[str, str],
    asked: Options,
    *,
    as_json: bool,
    when: Callable[[Mapping[str, int]], Counter[str]] | None = None,
) -> None:
    """Do it to the jobs that a filter finds, if that is agreed; `words` for before and after.

    `when`: what is said of jobs, where that depends on their accounts; `change` gives counts of
    them by account then.
    """
    fields = dict(asked)
    yes, dry_run = fields.pop("yes"), fields.pop("dry_run")
    if not any(fields.values()):
        raise click.UsageError("name at least one ID, or choose jobs by the options of `list`")
    wanted = JobFilter(**fields | {"metadata": dict(fields["metadata"])})
    url = options.database()
    found = survey(url, wanted)
    if not found.count:
        known.check_chosen(url, wanted)
    notes = _lines(when(found.by("account"))) if when else []
    consent = {"yes": yes, "dry_run": dry_run, "as_json": as_json}
    if not many.agreed(words[0], found, "tracked", notes=notes, **consent):
        return
    batches = change(
        url, found.ids, wanted.state, by=options.who(), chosen_by=dataclasses.asdict(wanted)
    )
    size = Counter.total if when else int
    done = many.through(batches, found.count, words[1], size)
    count = sum(map(size, done))
    polled = when(sum(done, Counter())) if when else Counter[str]()
    if as_json:
        said = (
            {"polled": [{"when": each, "count": polled[each]} for each in polled]} if when else {}
        )
        render.print_json({"count": count, "left_out": found.count - count} | said)
    else:
        told = "\n".join(_lines(polled)) or many.counted(words[1], count)
        click.echo(told + many.left_out(found.count - count))


def _lines(when: Counter[str]) -> list[str]:
    told = [many.counted("{} job", count) for count in when.values()]
    return [f"will be polled {said}: {jobs}" for said, jobs in zip(when, told, strict=True)]


@click.command()
@click.argument("ids", metavar="ID…", nargs=-1, required=True)
@click.option("--webhook-url", metavar="URL", help="Tell this URL.")
@click.option("--callback-task", metavar="NAME", help="Call this Celery task.")
@click.option("--callback-queue", metavar="Q", help="… in this queue.")
@options.channels
@options.account
@click.option("--metadata", type=options.JsonObject(), metavar="JSON",
              help="A JSON object that takes the place of what was there.")  # fmt: skip
@click.option("--deadline", metavar="SPAN", help="When to stop hoping, from now: 45m.")
@click.option("--events", type=options.Names(), metavar="LIST", help="What to tell.")
@options.as_json
def update(ids: Sequence[str], as_json: bool, **given: Any) -> None:
    """Change what was ordered for jobs that have not ended; what is not given stays.

    \b
    reelwatch update veo3.1-fast:1770350082-trii1OXZc3 --deadline 2h
    reelwatch update veo3.1-fast:1770350082-trii1OXZc3 \\
        --webhook-url https://app.example.com/hooks/new

    Events that are owed already go where they were to go. If one id is unknown or has ended,
    nothing is changed.
    """
    with db.transaction(options.database()) as session:
        try:
            jobs = updating.update_many(ids, session=session, by=options.who(), **given)
        except HasEnded as error:  # nothing is wrong with the form of what was asked
            raise Failure(str(error)) from None
    if as_json:
        render.print_json([history.job_row(job) for job in jobs])
        return
    for job in jobs:
        click.echo(f"updated {plain(job.video_id)}")


@click.command()
@click.option("--older-than", "older_than", type=options.SpanWithUnit(), required=True,
              metavar="SPAN", help="How long ago they must have ended: 90d.")  # fmt: skip
@click.option("--state", type=click.Choice(ENDS), help="Only those that ended so.")
@click.option("--account", metavar="A", help="Only of this upstream account.")
@click.option("--model", metavar="M", help="Only of this model.")
@many.consent
@options.as_json
def prune(older_than: timedelta, yes: bool, dry_run: bool, as_json: bool, **asked: Any) -> None:
    """Delete jobs that ended long ago, with their transitions, errors, events and attempts.

    Those that were given up as expired go too. A job whose event is still to be told stays. It says
    how many they are and asks; a script says --yes.

    \b
    reelwatch prune --older-than 90d --dry-run
    reelwatch prune --older-than 90d --yes
    """
    url, wanted = options.database(), JobFilter(**asked)
    known.check_chosen(url, wanted)
    with db.reading(url) as session:
        before = db.now(session) - older_than
    # Counting what is deleted without a question would only take time.
    found = Survey(()) if yes and not dry_run else pruning.survey(url, before, wanted)
    words = ("delete {} job", "deleted {} job")
    if not many.agreed(words[0], found, "that ended", yes=yes, dry_run=dry_run, as_json=as_json):
        return
    batches = pruning.prune(url, before, wanted, by=options.who())
    count = sum(many.through(batches, found.count or None, words[1], int))
    if as_json:
        render.print_json({"deleted": count, "before": before})
    else:
        ended = f"that ended before {render.clock(before)}"
        click.echo(f"{many.counted(words[1], count)} {ended}")
