"""What an HTTP exchange is about: a request, a response, the errors between them. Pure."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple
from urllib.parse import quote

from reelwatch.rules.callback_url import ascii_name

MOST_HEADERS = 100  # of one answer
LIBCURLS_OWN = ("Accept", "Content-Type", "Expect")
RESERVED = "!$%&'()*+,/:;=?@[]~"  # what stands for itself in a request's target

STATUS_LINE = re.compile(rb"HTTP/1\.\d ([1-9]\d\d)(?:\s.*)?", re.DOTALL)
HTTP_URL = re.compile(r"(?P<origin>https?://[^/\\?#]+)(?P<target>[^#]*)(?:#.*)?", re.I | re.DOTALL)
ORIGIN = re.compile(
    r"(?P<scheme>https?)://(?:.*@)?(?P<host>\[[0-9a-f:.]+\]|[^\s:@\[\]%]+)(?::(?P<port>[0-9]{0,5}))?",
    re.I,
)


class TransferError(Exception):
    """No answer came of an exchange; the message says why and carries nothing that was sent."""

    elapsed_seconds: float = 0.0


class DeadlinePassed(TransferError):
    """The time for the whole exchange was over before the answer was complete."""


class ConnectFailed(TransferError):
    """No connection, or one that broke: name, TCP, TLS, reset, or an answer that is not HTTP."""


class AddressBlocked(TransferError):
    """The client's address filter does not let it connect to where the name points."""


class BodyTooLarge(TransferError):
    """The body is larger than the caller accepts, as sent or as decoded."""


@dataclass(frozen=True, slots=True)
class Request:
    """What to send, and the bounds of the answer.

    `deadline_seconds` is for all of it. `max_bytes` bounds the body both as sent and as decoded;
    `decode` undoes gzip and deflate, without it the bytes are kept as they came. What is larger is
    an error, or, with `truncate`, cut off. Accept-Encoding is set here.
    """

    url: str
    method: str = "GET"
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    deadline_seconds: float = 15.0
    max_bytes: int = 4 * 1024 * 1024
    decode: bool = True
    truncate: bool = False


class Headers(dict[str, str]):
    """The headers of an answer, whatever their case; several of one name are joined by commas."""

    def __getitem__(self, name: str) -> str:
        return super().__getitem__(name.lower())

    def get(self, name: str, default: Any = None) -> Any:
        return super().get(name.lower(), default)


@dataclass(frozen=True, slots=True)
class Response:
    """An answer, 3xx included."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    elapsed_seconds: float


Outcome = Response | TransferError


class Place(NamedTuple):
    """Where a URL points: what is looked up, connected to, and named in the certificate."""

    scheme: str
    host: str
    port: int
    origin: str

    def __str__(self) -> str:
        return self.origin


def parted(url: str) -> tuple[Place, str]:
    """Where a URL points, and what is asked for there; ValueError where it is none."""
    parts = HTTP_URL.fullmatch(url)
    if parts is None:
        raise ValueError("not an http(s) URL")
    target = quote(parts["target"], safe=RESERVED)
    return _origin(parts["origin"]), target if target.startswith("/") else f"/{target}"


@lru_cache(maxsize=256)
def _origin(text: str) -> Place:
    parts = ORIGIN.fullmatch(text)
    if parts is None:
        raise ValueError("not an http(s) URL")
    scheme, host = parts["scheme"].lower(), ascii_name(parts["host"].lower())
    port = int(parts["port"] or (443 if scheme == "https" else 80))
    return Place(scheme, host.strip("[]"), port, f"{scheme}://{host}:{port}")


@lru_cache(maxsize=64)  # upstream is sent the same ones over and over
def header_lines(given: tuple[tuple[str, str], ...], decode: bool) -> list[bytes]:
    """The headers to send; what libcurl would add of its own is taken away. Raises ValueError."""
    headers = {"User-Agent": "reelwatch", **dict(given)}
    headers["Accept-Encoding"] = "gzip, deflate" if decode else "identity"
    lines = [f"{name}: {value}" if value else f"{name};" for name, value in headers.items()]
    if any(bad in line for line in lines for bad in "\r\n\0"):
        raise ValueError("a header breaks the line")
    names = {name.lower() for name in headers}
    lines += [f"{name}:" for name in LIBCURLS_OWN if name.lower() not in names]
    return [line.encode("latin-1") for line in lines]


def first_status(lines: Sequence[bytes]) -> int | None:
    """The status of an answer whose head may be cut off; None if no more than interim ones came."""
    found = (STATUS_LINE.fullmatch(line) for line in lines)
    return next((int(each[1]) for each in found if each and each[1] >= b"200"), None)


def read_head(lines: Sequence[bytes], *, truncate: bool = False) -> tuple[int, Headers]:
    """Status and headers of an answer; interim ones (1xx) before it are left out.

    More headers than there may be are an error, or, with `truncate`, left out.

    What stands behind the head are trailers, which nobody wants. Raises ValueError where there is
    no whole answer: libcurl takes a head that is cut off for one.
    """
    status, headers, is_whole, count = 0, Headers(), True, 0
    for line in lines:
        if is_whole and line.startswith(b"HTTP/"):
            found = STATUS_LINE.fullmatch(line)
            if found is None:
                raise ValueError("the answer is not valid HTTP")
            status, headers, is_whole, count = int(found[1]), Headers(), False, 0
        elif line in (b"\r\n", b"\n"):
            is_whole = True
        elif not is_whole:
            count += 1
            if count > MOST_HEADERS and truncate:
                continue
            if count > MOST_HEADERS:
                raise ValueError("the answer is not valid HTTP: too many headers")
            name, _, value = line.decode("latin-1").partition(":")
            name, value = name.lower(), value.strip()
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
    if status == 101:
        raise ValueError("the answer is a change of protocol that nobody asked for")
    if status < 200 or not is_whole:
        raise ValueError("the connection ended before the answer did")
    return status, headers
