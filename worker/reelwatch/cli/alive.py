"""`reelwatch alive`: for health checks of worker and beat. `start` answers most calls before this
is loaded."""

import click

from reelwatch.cli import errors, pulse
from reelwatch.rules.pulse import KINDS


@click.command()
@click.argument("kind", type=click.Choice(KINDS), required=False, default="")
@click.pass_context
def alive(ctx: click.Context, kind: str) -> None:
    """Do the workers and beats that run here go on with their work? Exit code 1 if one does not.

    Asks every process in the same container, or the same network namespace; with a KIND only those.
    For health checks: it takes a fraction of what `celery inspect ping` takes, asks neither broker
    nor database, and holds a worker for alive that works on while the broker is away.

    \b
    reelwatch alive worker
    """
    wrong = pulse.complaints(kind)
    for line in wrong:
        click.echo(f"reelwatch: {line}", err=True)
    if wrong:
        ctx.exit(errors.FAILED)
