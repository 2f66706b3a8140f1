"""What commands that act on many share: how many and whose, whether to, how far, and when to stop.

Ids that were named are done without a question. What a filter finds is shown first: at a terminal
with a question, and a program has to say `--yes`, for it can't see how many it will be.
"""

import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeVar

import click

from reelwatch.cli import render
from reelwatch.cli.errors import Failure, WrongInput
from reelwatch.rules.wording import plain
from reelwatch.storage.surveys import Survey

T = TypeVar("T")
Command = TypeVar("Command", bound=Callable[..., Any])

GROUPS_SHOWN = 10
PROGRESS_FROM = 501  # what takes a moment only needs no bar


def consent(command: Command) -> Command:
    """`--yes` and `--dry-run`."""
    yes = click.option("--yes", is_flag=True, help="Do it without asking.")
    dry = click.option("--dry-run", is_flag=True, help="Only say how many it would be, and whose.")
    return yes(dry(command))


def agreed(
    will: str,
    found: Survey,
    when: str,
    *,
    yes: bool,
    dry_run: bool,
    as_json: bool,
    notes: Sequence[str] = (),
) -> bool:
    """Is it to be done to all that was found? `will` says what, as in `cancel {} job`.

    `when` says what the times of the survey are, as in `tracked`; `notes` is what follows it.

    Shows what was found wherever the answer is not clear already. Ends the command where nobody
    can be asked, and where somebody says no.
    """
    if dry_run and as_json:
        render.print_json(_as_json(found))
    elif dry_run:
        click.echo("\n".join([*_lines(f"would {will}", found, when), *notes]))
    if dry_run or yes or not found.count:
        return not dry_run
    said = [*_lines(f"this would {will}", found, when), *notes]
    confirm("\n".join(said), "--yes does it, --dry-run only counts")
    return True


def confirm(text: str, otherwise: str) -> None:
    """Returns if somebody at a terminal agrees to what the text says; else ends the command.

    A program is told what to do otherwise: what it would answer could be meant for something else.
    """
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise WrongInput(f"{text}\nNothing was done: {otherwise}")
    click.echo(text, err=True)
    if not click.confirm("Go on?", err=True):
        raise Failure("nothing was done")


def counted(text: str, count: int) -> str:
    """`cancel {} job` with that many."""
    return text.format(f"{count:,}") + "s" * (count != 1)


def left_out(count: int) -> str:
    """What is added of those that were found and were not so any more when it was their turn."""
    return f"; left out {count:,} that had changed meanwhile" if count else ""


def _lines(will: str, found: Survey, when: str) -> Iterator[str]:
    span = ""
    if found.oldest and found.newest:
        ends = list(dict.fromkeys((render.clock(found.oldest), render.clock(found.newest))))
        span = f", {when} {'at' if len(ends) == 1 else 'between'} {' and '.join(ends)}"
    yield f"{counted(will, found.count)}{span}{':' if found.count else ''}"
    groups = found.groups.most_common()
    for group, count in groups[:GROUPS_SHOWN]:
        yield f"  {count:>9,}  " + "  ".join(plain(part or "-") for part in group)
    rest = groups[GROUPS_SHOWN:]
    if rest:
        yield f"  {sum(count for _, count in rest):>9,}  in {len(rest)} other groups"


def _as_json(found: Survey) -> dict[str, Any]:
    groups = [
        dict(zip(found.titles, group, strict=True)) | {"count": count}
        for group, count in found.groups.most_common()
    ]
    return {"count": found.count, "oldest": found.oldest, "newest": found.newest, "groups": groups}


def through(
    batches: Iterable[T], total: int | None, what: str, size: Callable[[T], int]
) -> list[T]:
    """Go through all batches, each committed when it is over. Ctrl-C ends it after the current one.

    `what` says what was done to how many, as in `cancelled {} job`; a `total` of None: nobody
    has counted.
    """
    done: list[T] = []

    def told() -> str:
        of = "" if total is None else f" of {total:,}"
        return (
            f"stopped: {counted(what, sum(map(size, done)))}{of}; the others are as they were, "
            "the same command goes on with them"
        )

    with _progress(total) as advance, _asked_to_stop() as stopped:
        try:
            for each in batches:
                done.append(each)
                advance(size(each))
                if stopped() and sum(map(size, done)) != total:
                    break
            else:
                return done
        except (Exception, KeyboardInterrupt):
            if done:  # why, is told besides
                click.echo(f"reelwatch: {told()}", err=True)
            raise
    raise Failure(told())


@contextmanager
def _asked_to_stop() -> Iterator[Callable[[], bool]]:
    """Notes the first Ctrl-C; a second one ends the program at once."""
    asked: list[int] = []
    before = signal.getsignal(signal.SIGINT)

    def note(number: int, _frame: object) -> None:
        asked.append(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    if before is signal.SIG_IGN:  # whoever started it wants it so
        yield lambda: False
        return
    signal.signal(signal.SIGINT, note)
    try:
        yield lambda: bool(asked)
    finally:
        signal.signal(signal.SIGINT, before)


def _progress(total: int | None) -> AbstractContextManager[Callable[[int], object]]:
    """Shows how far it is, to be told of each advance; at a terminal, if it takes a while."""
    screen = render.progress_console()
    if not screen.is_terminal or (total is not None and total < PROGRESS_FROM):
        return nullcontext(lambda _count: None)
    # It takes a while to load, and most calls are over before a bar could be seen.
    from reelwatch.cli.progress import bar  # noqa: PLC0415

    return bar(screen, total)
