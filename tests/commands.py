"""Running `reelwatch` inside the test process: into a pipe, or at a terminal of a given width."""

import inspect
import io
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from click.testing import CliRunner

from reelwatch.cli.main import main
from reelwatch.config import settings
from tests.environment import SECRET, set_variables
from tests.logs import logging_put_back


@contextmanager
def command_environment(
    database_url: str, tmp_path: Path, patch: pytest.MonkeyPatch
) -> Iterator[pytest.MonkeyPatch]:
    """Settings for commands, in an empty folder; what they do to logging is undone."""
    set_variables(patch, DATABASE_URL=database_url, WEBHOOK_SECRET=SECRET)
    patch.chdir(tmp_path)
    with logging_put_back():
        yield patch


class Result(NamedTuple):
    """What came of a command."""

    exit_code: int
    stdout: str
    stderr: str

    @property
    def output(self) -> str:
        """Everything that it wrote."""
        return self.stdout + self.stderr


# Click kept the two streams apart only when asked to, before 8.2; since then it always does.
APART: dict[str, Any] = (
    {"mix_stderr": False} if "mix_stderr" in inspect.signature(CliRunner).parameters else {}
)


def run(*args: str, given: str | bytes | None = None) -> Result:
    """The command with its output in pipes; settings are read anew, as a new process would."""
    settings.current.cache_clear()
    result = CliRunner(**APART).invoke(main, args, input=given, prog_name="reelwatch")
    return Result(result.exit_code, result.stdout, result.stderr)


def done(*args: str, given: str | bytes | None = None) -> str:
    """What a command that must succeed wrote to standard output."""
    result = run(*args, given=given)
    assert result.exit_code == 0, result.output
    return result.stdout


class Screen(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def on_screen(patch: pytest.MonkeyPatch, *args: str, columns: int = 80) -> str:
    """What a command shows at a terminal of that many columns, without colours."""
    settings.current.cache_clear()
    screen = Screen()
    with patch.context() as terminal:
        for name, value in (("COLUMNS", str(columns)), ("LINES", "24"), ("TERM", "xterm")):
            terminal.setenv(name, value)
        terminal.setattr(sys, "stdout", screen)
        main(list(args), standalone_mode=False)
    return re.sub(r"\x1b\[[\d;]*m", "", screen.getvalue())
