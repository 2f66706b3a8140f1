"""What the text of a variable becomes, and a wrong one in one line that names what is accepted.

Each function but `explain` raises `ValueError`, whose text says what is accepted.
"""

import re
from collections.abc import Callable
from typing import Any

from reelwatch.config.servers import check_broker_url, normal_database_url
from reelwatch.rules.callback_url import parse_allowlist
from reelwatch.rules.durations import parse_duration

TEXT = "text in UTF-8, and it holds other bytes"
_OTHER_BYTES = re.compile(r"[\ud800-\udfff]")  # what Python makes of them
RATE_MOST = 10_000  # requests per second
YES, NO = ("1", "true", "t", "yes", "y", "on"), ("0", "false", "f", "no", "n", "off")


def explain(name: str, value: object, accepted: str, *, secret: bool) -> str:
    """One line for a wrong value; a secret one, and URLs with passwords, stay unnamed."""
    if _OTHER_BYTES.search(str(value)):  # nobody can tell what of it is a password
        return f"{name}=(not shown): accepted: {TEXT}"
    # A URL with a password is wrong everywhere, and shown nowhere.
    hidden = secret or "@" in str(value)
    shown = "(not shown)" if hidden else repr(value)
    if name == "WEBHOOK_ALLOW":  # which of its entries is wrong, not what is accepted
        return f"{name}={shown}: {accepted}"
    return f"{name}={shown}: accepted: {accepted}"


def check_text(value: object) -> None:
    """No host, user, password or address can be named by a text that has no UTF-8."""
    if isinstance(value, str) and _OTHER_BYTES.search(value):
        raise ValueError(TEXT)


def database(value: str) -> str:
    """The URL as SQLAlchemy has it, its driver named."""
    return normal_database_url(value).render_as_string(hide_password=False)


def broker(value: str) -> str:
    """The URL as it is."""
    return check_broker_url(value)


def rate(value: object) -> float:
    """Requests per second."""
    try:
        found = float(str(value).encode("ascii"))  # no digits of other scripts
    except ValueError:
        raise ValueError("a valid number") from None
    if found <= 0:
        raise ValueError("greater than 0")
    if not found <= RATE_MOST:
        raise ValueError(f"less than or equal to {RATE_MOST}")
    return found


def positive(read: Callable[[object], float] = parse_duration) -> Callable[[object], float]:
    """A duration as `read` has it, and none of 0."""

    def checked(value: object) -> float:
        seconds = read(value)
        if seconds <= 0:
            raise ValueError("greater than 0")
        return seconds

    return checked


def allowlist(value: str) -> str:
    """The text as it is."""
    parse_allowlist(value)
    return value


def flag(value: object) -> bool:
    """Yes or no, in any of the usual spellings."""
    text = str(value).casefold()
    if text not in (*YES, *NO):
        raise ValueError(f"one of {', '.join((*YES, *NO))}")
    return text in YES


def one_of(*known: str) -> Callable[[Any], str]:
    """One of these words, in any case."""

    def checked(value: str) -> str:
        if value.casefold() not in known:
            said = ", ".join(map(repr, known[:-1]))
            raise ValueError(f"{said} or {known[-1]!r}")
        return value.casefold()

    return checked
