"""The URLs of databases and brokers, read so strictly that no two parsers could differ about them.

SQLAlchemy, kombu and libpq each read a URL in their own way, and an `@`, `/` or `#` that is not
percent-encoded moves a part of the password into what they take for host, port or path: they would
then quote it in their errors. Here such a URL is refused, and no part of it is quoted. Pure.
"""

import re
import unicodedata
from dataclasses import dataclass
from urllib.parse import parse_qsl, unquote

DEFAULT_DATABASE = "sqlite:///reelwatch.db"  # of `up`, and of commands beside it

QUOTING = (
    "within a user name or password, special characters are percent-encoded: "
    "@ as %40, / as %2F, # as %23, ? as %3F, % as %25, ; as %3B"
)

_TEXT = r"(?:[^\x00-\x20\x7f\s/?#@:%;\[\]]|%[0-9A-Fa-f]{2})"
_URL = re.compile(
    rf"""
    (?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://
    (?:(?P<user>{_TEXT}*)(?::(?P<password>(?:{_TEXT}|:)*))?@)?
    (?P<host>\[[0-9A-Fa-f:.]+\]|{_TEXT}*)
    (?::(?P<port>[0-9]{{0,5}}))?
    (?:/(?P<path>(?:{_TEXT}|[/:\[\]])*))?
    (?:\?(?P<query>(?:{_TEXT}|[/:?\[\]])*))?
    """,
    re.X,
)
_DELIMITERS = "/?#@:"


@dataclass(frozen=True, slots=True, repr=False)
class Parts:
    """What a URL says, decoded; None for what it leaves out. It has no `repr`: no part leaks."""

    scheme: str
    user: str | None
    password: str | None
    host: str | None
    port: int | None
    path: str
    query: tuple[tuple[str, str], ...]


def parse(url: str) -> Parts:
    """The parts of a server's URL. ValueError, which quotes nothing of it, where it is none."""
    found = _URL.fullmatch(url)
    if found is None or _folds_to_delimiters(url):
        raise ValueError(QUOTING)
    port = int(found["port"]) if found["port"] else None
    if port is not None and not 0 < port < 65_536:
        raise ValueError("a port is a number from 1 to 65535")
    return Parts(
        found["scheme"].lower(),
        _decoded(found["user"]),
        _decoded(found["password"]),
        _decoded(found["host"].strip("[]")),
        port,
        unquote(found["path"] or ""),
        tuple(parse_qsl(found["query"] or "", keep_blank_values=True)),
    )


def _decoded(text: str | None) -> str | None:
    return unquote(text) if text else None


def _folds_to_delimiters(url: str) -> bool:
    """Characters such as ℀ become `a/c` when they are normalised, and Python refuses that."""
    foreign = "".join(character for character in url if not character.isascii())
    return any(each in _DELIMITERS for each in unicodedata.normalize("NFKC", foreign))


def is_sqlite(url: str) -> bool:
    """Is this the URL of an SQLite database?"""
    return re.match(r"\s*sqlite(\+\w+)?:", url, re.IGNORECASE) is not None


def sqlite_file(url: str) -> str | None:
    """The file of an SQLite database; None for another database, or one in memory."""
    if not is_sqlite(url):
        return None
    path = unquote(url.strip().partition("://")[2].partition("?")[0].removeprefix("/"))
    return None if path in ("", ":memory:") else path
