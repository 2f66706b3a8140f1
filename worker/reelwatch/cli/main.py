"""The command `reelwatch`: which commands there are, where they live, and how they fail.

A command's module is imported when the command is called, so that asking for help does not wait
for Celery and SQLAlchemy.
"""

import importlib
import os
import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from typing import Any, NamedTuple

import click

from reelwatch.config import lean, secrecy
from reelwatch.rules.spelling import nearest
from reelwatch.rules.urls import DEFAULT_DATABASE


class Entry(NamedTuple):
    """One command: the function that is it, and what the list of commands says of it."""

    where: str
    summary: str


SECTIONS: Mapping[str, Mapping[str, Entry]] = {
    "Start": {
        "demo": Entry("service:demo", "25 videos from id to verified webhook, right here."),
        "up": Entry("service:up", "Run everything in one process."),
        "doctor": Entry("doctor:doctor", "Check the installation; say what is wrong."),
    },
    "Jobs": {
        "track": Entry("jobs:track", "Track videos until their fate is known."),
        "show": Entry("jobs:show", "Tell one job's whole story."),
        "list": Entry("jobs:list_", "List jobs, the newest first."),
        "watch": Entry("watch:watch", "Watch jobs move, live."),
        "update": Entry("change:update", "Change whom to tell, of what, until when."),
        "cancel": Entry("change:cancel", "Stop tracking videos."),
        "recheck": Entry("change:recheck", "Poll now; reopen expired, cancelled, lost ones."),
    },
    "Webhooks and callbacks": {
        "deliveries": Entry("events:deliveries", "List events: told, owed and given up."),
        "redeliver": Entry("events:redeliver", "Send events again, under the same ids."),
        "listen": Entry("listen:listen", "Receive webhooks here and verify them."),
        "test-event": Entry("test_event:test_event", "Send a signed test to a receiver."),
        "secret": Entry("service:secret", "Make a new webhook secret."),
    },
    "Running it": {
        "web": Entry("web:web", "Serve the API, the page and the metrics."),
        "open": Entry("web:open_", "Open the page in a browser."),
        "alive": Entry("alive:alive", "Health check of the workers and beats that run here."),
        "accounts": Entry("service:accounts", "Show each upstream account's standing."),
        "simulate": Entry("simulate:simulate", "What other settings would have done."),
        "migrate": Entry("service:migrate", "Bring the database to the newest revision."),
        "prune": Entry("change:prune", "Delete old jobs that have ended."),
        "sandbox": Entry("service:sandbox_", "Run a local stand-in of the upstream."),
    },
}


class Commands(click.Group):
    """Imports a command when it is wanted, and turns errors into one line and an exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names, in the order of the help."""
        return [name for section in SECTIONS.values() for name in section]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name; None if there is none."""
        entry = next((s[cmd_name] for s in SECTIONS.values() if cmd_name in s), None)
        if entry is None:
            return None
        lean.load_structlog()
        module, _, name = entry.where.partition(":")
        command: click.Command = getattr(importlib.import_module(f"reelwatch.cli.{module}"), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands, by what they are for."""
        for title, section in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl(list(_lines(section)))

    def main(self, *args: Any, **options: Any) -> Any:
        """Run the command line. What it prints, usage errors included, holds no secret."""
        with secrecy.clean_output():
            return super().main(*args, **options)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that is meant; an unknown one is told with the nearest known."""
        name = args[0]
        if self.get_command(ctx, name) is None and name[:1].isalnum():
            near = nearest(name, self.list_commands(ctx))
            hint = f" Did you mean {near!r}?" if near else ""
            raise click.UsageError(f"No such command {name!r}.{hint}", ctx)
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; whatever goes wrong is told in a line, never with a secret in it."""
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise
        except Exception as error:  # the outermost place: what arrives here nobody else explains
            failure = importlib.import_module("reelwatch.cli.errors").failure(error)
            failure.of_service = ctx.invoked_subcommand == "up"
            raise failure from None


def _lines(section: Mapping[str, Entry]) -> Iterator[tuple[str, str]]:
    return ((name, entry.summary) for name, entry in section.items())


def _version(ctx: click.Context, _parameter: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        click.echo(f"reelwatch {version('reelwatch')}")
        ctx.exit()


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version", is_flag=True, callback=_version, expose_value=False, is_eager=True,
    help="Show the version and exit.",
)  # fmt: skip
def main() -> None:
    """Reelwatch tracks asynchronous video jobs until their fate is known, and tells your
    application by signed webhook or Celery callback.

    \b
    See it work:      reelwatch demo
    Do real work:     QUICKROUTER_API_KEY=… reelwatch up
    Hand a video in:  reelwatch track veo3.1-fast:1770350082-trii1OXZc3
    Ask what became of it:
                      reelwatch show veo3.1-fast:1770350082-trii1OXZc3

    `reelwatch COMMAND --help` explains a command, with examples. Settings are environment
    variables, DATABASE_URL and BROKER_URL above all. Exit codes: 0 done, 1 failed, 2 wrong usage.
    """
    if not os.environ.get("DATABASE_URL"):
        os.environ["DATABASE_URL"] = DEFAULT_DATABASE
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a terminal without ✓ gets a ? rather than an error
            stream.reconfigure(errors="replace")


if __name__ == "__main__":  # `python -m reelwatch.cli`, where the script is not on the path
    main(prog_name="reelwatch")
