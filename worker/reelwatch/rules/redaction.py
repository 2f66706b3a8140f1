"""What must not be printed, and how it is cut out of a text: one way for log, commands and pages.

Pure: which secrets a process has is found out by `reelwatch.config.secrecy`.
"""

import json
import re
from collections.abc import Iterable, Iterator
from urllib.parse import parse_qsl, quote, quote_plus, unquote

from reelwatch.rules.urls import is_sqlite

MASK = "[secret]"
HIDDEN = "***"  # within a URL that is shown
SHORTEST = 6  # characters; a shorter secret is part of other words, and is cut out of URLs only

# Parameters of a URL that say how to connect. The value of any other one may be a secret.
HARMLESS = frozenset(
    {
        "application_name", "channel_binding", "connect_timeout", "dbname", "gssencmode",
        "heartbeat", "host", "hostaddr", "keepalives", "keepalives_count", "keepalives_idle",
        "keepalives_interval", "load_balance_hosts", "pgbouncer", "port", "prepare_threshold",
        "ssl_cert_reqs", "ssl_check_hostname", "sslmode", "sslnegotiation", "sslsni",
        "target_session_attrs", "tcp_user_timeout", "timeout",
    }
)  # fmt: skip
_SECRET_PARAMETER = re.compile(r"pass|pwd|secret|token|credential|client_key|api_?key", re.I)

_NEXT_URL = re.compile(r";(?=[A-Za-z][A-Za-z0-9+.-]*://)")
_MISREAD = re.compile(r"[@/?#;]")


def shown_url(url: str) -> str:
    """A URL without its password, and without the values of parameters that may be secret."""
    address, mark, query = url.partition("?")
    scheme, slashes, rest = address.partition("://")
    user, at, place = rest.rpartition("@")
    if at and not is_sqlite(url):
        name, colon, _ = user.partition(":")
        user = name + colon + HIDDEN * bool(colon)
    pairs = (pair.partition("=") for pair in query.split("&"))
    shown = "&".join(
        name + equals + (value if name.lower() in HARMLESS else HIDDEN * bool(equals))
        for name, equals, value in pairs
    )
    return f"{scheme}{slashes}{user}{at}{place}{mark}{shown}"


def secrets_of_url(url: str) -> Iterator[str]:
    """The passwords in a URL, or in several with `;` between, as they stand there and as meant.

    A password that is also the user's, host's or path's name protects nothing, and would be cut out
    of every line that names those. Of a URL that can't be read, all that may be password is given.
    """
    for password, names in _passwords(url):
        for text in (password, unquote(password)):
            if text and text.casefold() not in names:
                yield text


def _passwords(url: str) -> Iterator[tuple[str, frozenset[str]]]:
    """Each with the names that stand beside it."""
    for each in _NEXT_URL.split(url):
        query = each.partition("?")[2]
        credentials, at, place = each.partition("://")[2].rpartition("@")
        user, _, password = credentials.partition(":")
        names = {user, *re.split(r"[/?:]", place)} if at else set()
        parts = re.split(r"[@/?#:;]", password) if _MISREAD.search(password) else ()
        for text in (password, *parts):  # the parts are what errors of a misread URL would quote
            yield text, frozenset(name.casefold() for name in names)
        for name, value in (*parse_qsl(query), *_raw_parameters(query)):
            if name.casefold() == "passfile" or _SECRET_PARAMETER.search(name):
                yield value, frozenset()


def _raw_parameters(query: str) -> Iterator[tuple[str, str]]:
    for pair in query.split("&"):
        name, _, value = pair.partition("=")
        yield name, value


class Redactor:
    """Cuts secrets out of texts, in each form that a program writes them in."""

    def __init__(self, secrets: Iterable[str]) -> None:
        """`secrets` as they are; those shorter than `SHORTEST` are cut out of URLs only."""
        known = {secret for secret in secrets if secret}
        self._written = {
            form: MASK for secret in known if len(secret) >= SHORTEST for form in _forms(secret)
        }
        for secret in known:
            if len(secret) < SHORTEST:
                for form in _forms(secret):
                    self._written[f":{form}@"] = f":{HIDDEN}@"
                    self._written[f"password={form}"] = f"password={HIDDEN}"
        # The longest first: a secret must not survive because a part of it was cut out before.
        self._longest_first = sorted(self._written, key=len, reverse=True)

    def __call__(self, text: str) -> str:
        """The text without any of the secrets."""
        for form in self._longest_first:
            if form in text:
                text = text.replace(form, self._written[form])
        return text


def _forms(secret: str) -> set[str]:
    """A secret as it stands, and as Python, URLs and, around all that, JSON write it."""
    plain = {
        secret,
        repr(secret)[1:-1],
        repr(secret.encode("utf-8", "surrogatepass"))[2:-1],
        quote(secret, safe="", errors="replace"),
        quote(secret, safe=" +", errors="replace"),
        quote_plus(secret, errors="replace"),
    }
    quoted = {
        json.dumps(text, ensure_ascii=ascii_only)[1:-1]
        for text in plain
        for ascii_only in (True, False)
    }
    return {form for form in plain | quoted if form}
