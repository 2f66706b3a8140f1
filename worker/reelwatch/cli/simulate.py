"""The command that plays recorded jobs again under other settings."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import click

from reelwatch.cli import options, render
from reelwatch.cli.errors import Failure
from reelwatch.config import settings
from reelwatch.jobs import learning
from reelwatch.rules.timing.pace import Pace
from reelwatch.rules.timing.planner import Plans
from reelwatch.rules.timing.simulator import Learner, Video, run
from reelwatch.storage import db

LIKE = (0.5, 1.0, 2.0)  # of the present value, where none are named


@dataclass(frozen=True, slots=True)
class Setting:
    """One choice of settings: seconds, seconds, requests per second."""

    poll_min: float
    target_delay: float
    rate: float


@click.command()
@click.option("--history", is_flag=True, help="Play this database's finished jobs (the only way).")
@click.option("--poll-min", type=options.Span(), multiple=True, metavar="SPAN",
              help="REELWATCH_POLL_MIN to try; may be given several times.")  # fmt: skip
@click.option("--target-delay", type=options.Span(), multiple=True, metavar="SPAN",
              help="REELWATCH_TARGET_DELAY to try; may be given several times.")  # fmt: skip
@click.option("--rate", type=click.FloatRange(0, 10_000, min_open=True), multiple=True,
              metavar="N", help="Requests per second to try; may be repeated.")  # fmt: skip
@click.option("--limit", type=click.IntRange(1, options.MOST), default=2_000, show_default=True,
              help="So many of the newest finished jobs.")  # fmt: skip
@options.account
@options.as_json
def simulate(
    history: bool,
    poll_min: Sequence[Any],
    target_delay: Sequence[Any],
    rate: Sequence[float],
    limit: int,
    account: str,
    as_json: bool,
) -> None:
    """Play finished jobs again, polled under other settings: how many requests that takes, and
    how late their ends are noticed. What network and database cost is not in it.

    \b
    reelwatch simulate --history
    reelwatch simulate --history --target-delay 1s --target-delay 10s --rate 2

    Without values of its own an option is tried at half, once and twice what is set now.
    """
    if not history:
        raise click.UsageError("say --history: recorded jobs are what can be played")
    current = settings.current()
    if account not in current.accounts:
        raise Failure(f"no account {account!r} is configured")
    with db.reading(options.database()) as session:
        videos = learning.recorded(session, account, limit)
    if not videos:
        raise Failure(f"no finished jobs of the account {account!r} to learn from yet")
    now = Setting(
        current.poll_min, current.target_delay, current.accounts[account].requests_per_second
    )
    tried = [
        Setting(*each)
        for each in product(
            [each.total_seconds() for each in poll_min] or [now.poll_min],
            [each.total_seconds() for each in target_delay] or _around(now.target_delay),
            rate or [now.rate],
        )
    ]
    rows = [_played(videos, setting, now, current.poll_max) for setting in tried]
    if as_json:
        render.print_json(rows)
        return
    click.echo(f"{len(videos)} finished jobs of the account {account!r}, played again")
    titles = ("poll min", "target", "rate", "polls", "per job", "mean delay", "p99 delay", "")
    render.print_table(titles, [list(_cells(row)) for row in rows])


def _around(value: float) -> list[float]:
    return [value * share for share in LIKE]


def _played(
    videos: Sequence[Video], setting: Setting, now: Setting, ceiling: float
) -> dict[str, Any]:
    pace = Pace(setting.poll_min, max(setting.poll_min, ceiling))
    outcome = run(videos, Learner(Plans(pace, setting.target_delay)), setting.rate)
    return {
        "poll_min_seconds": setting.poll_min,
        "target_delay_seconds": setting.target_delay,
        "requests_per_second": setting.rate,
        "requests": outcome.polls,
        "requests_per_job": round(outcome.polls_per_job, 2),
        "mean_delay_seconds": round(outcome.mean_delay, 2),
        "p99_delay_seconds": round(outcome.delay_at(0.99), 2),
        "present": setting == now,
    }


def _cells(row: dict[str, Any]) -> Iterator[str]:
    yield f"{row['poll_min_seconds']:g} s"
    yield f"{row['target_delay_seconds']:g} s"
    yield f"{row['requests_per_second']:g}/s"
    yield str(row["requests"])
    yield f"{row['requests_per_job']:.1f}"
    yield f"{row['mean_delay_seconds']:.1f} s"
    yield f"{row['p99_delay_seconds']:.1f} s"
    yield "as set now" if row["present"] else ""
