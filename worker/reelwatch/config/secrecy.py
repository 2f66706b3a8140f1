"""Which secrets this process has, and streams that print none of them.

The secrets are gathered from the environment as it is, not from settings that were accepted: what
is printed about wrong settings must be clean too. Nothing here loads a library.
"""

import atexit
import io
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

from reelwatch.rules.redaction import Redactor, secrets_of_url
from reelwatch.rules.urls import DEFAULT_DATABASE, sqlite_file

KEY = "QUICKROUTER_API_KEY"
URLS = ("DATABASE_URL", "BROKER_URL", "REDIS_URL")
NAMING_FIELDS = ("api_key_env", "webhook_secret_env")  # of an account, in the accounts file
PROXIES = ("http_proxy", "https_proxy", "all_proxy")
SHORT = 16  # characters; a key of fewer, and all letters, is made up: a part of other texts
LONGEST_FILE = 1024 * 1024  # bytes


def secret_file(database: Path) -> Path:
    """Where `up` keeps the webhook secret it made for an SQLite database."""
    return database.with_name(database.name + ".secret")


def known(environ: Mapping[str, str] = os.environ) -> Iterator[str]:
    """Every text that must never be printed: keys, webhook secrets, passwords in URLs."""
    named = list(_accounts_variables(environ.get("REELWATCH_ACCOUNTS_FILE")))
    for name in (KEY, *(name for field, name in named if field == "api_key_env")):
        key = environ.get(name, "").strip()
        if len(key) >= SHORT or (key and not key.isalpha()):
            yield key
    variables = (
        "WEBHOOK_SECRET",
        *(name for field, name in named if field == "webhook_secret_env"),
    )
    for secret in " ".join(
        [*(environ.get(each, "") for each in variables), _kept(environ)]
    ).split():
        yield secret
        yield secret.removeprefix("whsec_")
    for each in environ.get("REELWATCH_API_TOKENS", "").split():
        token = each.rpartition(":")[2]
        if len(token) >= SHORT:
            yield token
    proxies = (form for name in PROXIES for form in (name, name.upper()))
    for name in (*URLS, *proxies):
        yield from secrets_of_url(environ.get(name, ""))


def _accounts_variables(accounts_file: str | None) -> Iterator[tuple[str, str]]:
    """The fields of the accounts file that name a variable with a secret, and their variables."""
    if not accounts_file:
        return
    import tomllib  # noqa: PLC0415 - many have no such file

    try:
        accounts = tomllib.loads(_text(Path(accounts_file)))["accounts"]
    except (OSError, ValueError, KeyError):
        return
    for account in accounts.values() if isinstance(accounts, dict) else ():
        for field, name in account.items() if isinstance(account, dict) else ():
            if field in NAMING_FIELDS and isinstance(name, str):
                yield field, name


def _kept(environ: Mapping[str, str]) -> str:
    database = sqlite_file(environ.get("DATABASE_URL") or DEFAULT_DATABASE)
    try:
        return _text(secret_file(Path(database))) if database else ""
    except (OSError, ValueError):
        return ""


def _text(path: Path) -> str:
    with path.open(encoding="utf-8") as file:
        return file.read(LONGEST_FILE)


def redactor() -> Redactor:
    """What cuts out the secrets that this process has now."""
    return Redactor(known())


class CleanStream(io.TextIOBase):
    """A text stream that passes on what is written to it without secrets."""

    def __init__(self, stream: TextIO, clean: Redactor) -> None:
        self._stream = stream
        self.clean = clean
        self.heeded = True  # is it an error when nobody can read it?

    def write(self, text: str) -> int:
        with self._passing():
            self._stream.write(self.clean(text))
        return len(text)

    def flush(self) -> None:
        with self._passing():
            self._stream.flush()

    @contextmanager
    def _passing(self) -> Iterator[None]:
        try:
            yield
        except OSError:
            if self.heeded:
                raise

    def isatty(self) -> bool:
        return self._stream.isatty()

    def fileno(self) -> int:
        return self._stream.fileno()

    def writable(self) -> bool:
        return True

    def close(self) -> None:
        """It is not this one's to close; being collected must not do it either."""

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._stream.encoding

    @property
    def errors(self) -> str | None:  # type: ignore[override]
        return self._stream.errors

    def reconfigure(self, **options: Any) -> None:
        """As that of the stream behind it, where it has one."""
        if isinstance(self._stream, io.TextIOWrapper):
            self._stream.reconfigure(**options)


@contextmanager
def clean_output() -> Iterator[None]:
    """Nothing that is printed meanwhile, by whomever, has a secret in it."""
    have_streams()
    before = sys.stdout, sys.stderr
    clean_for_good()
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def clean_for_good() -> None:
    """The same for the rest of this process."""
    have_streams()
    if not isinstance(sys.stdout, CleanStream):
        sys.stdout = CleanStream(sys.stdout, redactor())
    if not isinstance(sys.stderr, CleanStream):
        sys.stderr = CleanStream(sys.stderr, redactor())


def have_streams() -> None:
    """What a process was started without (`2>&-`) leads nowhere, rather than to what it opens next.

    Python has None for such a stream; a new file gets the lowest number, which is the one missing.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115 - for good


def outlive_readers() -> None:
    """For a service: that its lines can't be written is no reason to end, nor to fail at the end.

    Whoever read them may have gone, or the disk be full. Python would end with 120 over what it
    has not been able to write.
    """
    clean_for_good()
    atexit.unregister(_let_go)  # in `up`, beat and worker are one process
    atexit.register(_let_go)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, CleanStream):
            stream.heeded = False


def _let_go() -> None:
    """Lead what can't be written to nowhere."""
    for stream in (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__):
        if stream is None:
            continue
        try:
            stream._stream.flush() if isinstance(stream, CleanStream) else stream.flush()
        except (OSError, ValueError):
            with suppress(OSError, ValueError):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, stream.fileno())


def renew() -> None:
    """Take in the secrets that were made since."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, CleanStream):
            stream.clean = redactor()
