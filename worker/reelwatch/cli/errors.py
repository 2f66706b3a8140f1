"""What went wrong, in one line for the operator, and the exit code that goes with it."""

import errno
import os
import traceback
from contextlib import suppress

import click
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from reelwatch.config import log, settings
from reelwatch.errors import ReelwatchError, Refused, SettingsError, first_line
from reelwatch.rules.wording import plain
from reelwatch.storage import db

FAILED = 1
WRONG_USAGE = 2
INDEX_BYTES = 32_768  # that SQLite takes at once for the index of its log

# SQLite's words and PostgreSQL's: full, or not to be written to.
NO_WRITING = (
    "disk is full",
    "diskfull",
    "disk i/o error",
    "no space left",
    "readonly",
    "read-only",
)


class Failure(click.ClickException):
    """Ends the command with `reelwatch: …` on standard error."""

    exit_code = FAILED
    of_service = False  # `up` logs: where that is in JSON, this is as well

    def show(self, file: object = None) -> None:
        """Print it."""
        text = log.last_words(self.message) if self.of_service else f"reelwatch: {self.message}"
        click.echo("\n".join(map(plain, text.splitlines())), err=True)


class WrongInput(Failure):
    """What was handed in can't be accepted; the form of the command was right."""

    exit_code = WRONG_USAGE


def failure(error: Exception) -> Failure:
    """The failure that tells of `error`. What is printed of it is cleaned on its way out."""
    kind = WrongInput if isinstance(error, Refused | SettingsError) else Failure
    return kind(_text(error))


def not_served(error: OSError, host: str, port: int) -> Failure:
    """The failure of a server that can't listen where it should."""
    advice = {
        errno.EADDRINUSE: "something else listens there: end it, or take another by --port "
        "(0: any that is free)",
        errno.EACCES: "a port below 1024 is for privileged users: take another by --port",
        errno.EADDRNOTAVAIL: "--host is an address of this machine",
    }.get(error.errno or 0)
    said = (error.strerror or str(error)).rstrip(".")
    return Failure(f"{host} port {port}: {said}" + (f": {advice}" if advice else ""))


def _text(error: Exception) -> str:
    if isinstance(error, ReelwatchError):
        return str(error)
    if isinstance(error, SQLAlchemyError):
        return database_text(error)
    if isinstance(error, OSError) and error.strerror:
        return ": ".join(str(part) for part in (error.filename, error.strerror) if part)
    return "this is a bug, please report it:\n" + "".join(traceback.format_exception(error))


def _full() -> str | None:
    """That the disk of SQLite's file is full, if it is: SQLite itself tells an I/O error then.

    So it does where it finds no room for the index of its log, which it makes when it opens it.
    """
    with suppress(OSError, SettingsError):
        path = settings.current().sqlite_path
        folder = path and path.absolute().parent
        if folder:
            disk = os.statvfs(folder)
            if disk.f_bavail * disk.f_frsize < INDEX_BYTES:
                return f"the disk is full ({folder})"
    return None


def database_text(error: SQLAlchemyError) -> str:
    """What is wrong with the database, and what to do about it where that is known."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    said = db.said_by(cause)
    if any(sign in said for sign in db.NO_TABLE):
        return "the database is at no revision: run `reelwatch migrate`"
    if any(sign in said for sign in db.NO_COLUMN):
        return "the database is at an older revision than this program: run `reelwatch migrate`"
    if isinstance(cause, PoolTimeout):
        return "the database: all connections of this process are in use"
    first = first_line(cause or error).strip()
    if "disk i/o error" in said:
        first = _full() or first
    if any(sign in said for sign in NO_WRITING):
        return f"the database can't be written to: {first}; what was accepted before is kept"
    return f"the database (DATABASE_URL): {first}"
