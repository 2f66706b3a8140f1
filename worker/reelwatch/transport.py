"""One HTTP exchange with one deadline and a bounded answer, on top of requests and urllib3.

The deadline covers name look-up, connect, TLS, sending, headers and body. Nothing comes from the
environment, no redirect is followed, no cookie is kept. Nothing is tried twice, but for a request
over a connection that was kept and that the peer closed before a byte of its answer.
"""

import contextlib
import http.client
import io
import ssl
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from http.cookiejar import DefaultCookiePolicy
from importlib.metadata import version
from typing import Literal

import requests
import urllib3.exceptions

from reelwatch.connections import (
    Adapter,
    AddressBlocked,
    AddressFilter,
    BadAnswer,
    ConnectFailed,
    Dialer,
    Reply,
    Resolver,
    resolve,
    tls_context,
)
from reelwatch.deadline import Deadline, DeadlinePassed, TransferError

__all__ = [
    "USER_AGENT",
    "AddressBlocked",
    "AddressFilter",
    "BodyTooLarge",
    "ConnectFailed",
    "DeadlinePassed",
    "Exchange",
    "Resolver",
    "TransferError",
    "exchange",
    "new_session",
    "resolve",
]

USER_AGENT = f"reelwatch/{version('reelwatch')}"  # reading it takes a millisecond
PIECE_BYTES = 64 * 1024  # what is read, or decoded, in one go
GZIP_START = b"\x1f\x8b"

PACKED = ("gzip", "x-gzip", "deflate")

_FAILURES = (
    OSError,  # every error of requests is one
    urllib3.exceptions.HTTPError,
    http.client.HTTPException,
    zlib.error,
    ValueError,
    RecursionError,
)


class BodyTooLarge(TransferError):
    """The body is larger than the caller accepts, as sent or as decoded."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """An answer: `headers` are case-insensitive, `truncated` says that the body went on."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    truncated: bool
    elapsed_seconds: float


def exchange(
    session: requests.Session,
    method: str,
    url: str,
    *,
    headers: Mapping[str, str],
    body: bytes | None = None,
    deadline_seconds: float,
    max_bytes: int,
    decode: bool = True,
    on_oversize: Literal["error", "truncate"] = "error",
) -> Exchange:
    """Send one request over a session of `new_session` and read its answer, 3xx included.

    `deadline_seconds` is for all of it. `max_bytes` bounds the body both as sent and as decoded;
    `decode` undoes gzip and deflate, without it the bytes are kept as they came. Accept-Encoding
    is set here. Raises TransferError and nothing else for whatever the peer does.
    """
    adapter = session.adapters["https://"]
    if not isinstance(adapter, Adapter):
        raise TypeError("exchange() needs a session made by new_session()")
    deadline = Deadline(deadline_seconds)
    try:
        sent = _all_headers(headers, decode)
        reply = adapter.ask(deadline, method, url, sent, body, session.proxies)
        with contextlib.closing(reply):
            content, truncated = _receive(reply, max_bytes, decode)
    except _FAILURES as error:
        raise _failure(deadline, error) from None
    finally:
        cut = deadline.end()
    if cut:  # a body that lasts until the connection ends looks complete when it is cut
        raise deadline.error()
    if truncated and on_oversize == "error":
        raise BodyTooLarge(f"the answer is larger than {max_bytes} bytes")
    return Exchange(reply.status, reply.headers, content, truncated, deadline.elapsed())


def new_session(
    *,
    pool_size: int,
    address_filter: AddressFilter | None = None,
    proxies: Mapping[str, str] | None = None,
    verify: bool | str = True,
    resolver: Resolver | None = None,
) -> requests.Session:
    """A session for `exchange`, for any number of threads.

    It keeps up to `pool_size` idle connections to each of the last `pool_size` hosts. `verify` may
    be a file or directory of certificates. `address_filter(host, port, address)` is asked about
    every address of a name; one refusal refuses the name.
    """
    if any(proxy.lower().startswith("socks") for proxy in (proxies or {}).values()):
        raise ValueError("SOCKS proxies are not supported")
    if proxies and address_filter:
        raise ValueError("an address filter can't see what a proxy connects to")
    session = requests.Session()
    session.trust_env = False
    session.proxies = dict(proxies or {})
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    dialer = Dialer(resolver or resolve, address_filter)
    adapter = Adapter(pool_size, tls_context(verify), dialer)
    session.mount("https://", adapter)
    session.mount("http://", adapter)
    return session


# ------------------------------------------------------------------ sending and receiving


def _all_headers(headers: Mapping[str, str], decode: bool) -> dict[str, str]:
    encoding = "gzip, deflate" if decode else "identity"
    return {"User-Agent": "reelwatch", **headers, "Accept-Encoding": encoding}


def _receive(reply: Reply, max_bytes: int, decode: bool) -> tuple[bytes, bool]:
    """The body, at most `max_bytes` of it as sent and as decoded, and whether it went on."""
    pieces = _pieces(reply, max_bytes)
    if decode and reply.headers.get("content-encoding", "").lower() in PACKED:
        pieces = _inflated(pieces)
    content = io.BytesIO()
    for piece in pieces:
        room = max_bytes - content.tell()
        content.write(piece[:room])
        if len(piece) > room or reply.received > max_bytes:
            return content.getvalue(), True
    return content.getvalue(), False


def _pieces(reply: Reply, max_bytes: int) -> Iterator[bytes]:
    """The body as sent, up to one byte more than allowed: that byte proves that there is more."""
    while piece := reply.read(min(PIECE_BYTES, max_bytes + 1 - reply.received)):
        yield piece


def _inflated(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Undo gzip or deflate in steps of at most PIECE_BYTES, so that a bomb can't go off.

    urllib3's own deflate keeps all input that has given no output yet, however much it is.
    """
    stream = None
    for piece in pieces:
        stream = stream or zlib.decompressobj(_window_bits(piece))
        rest = piece
        while rest:
            if stream.eof:
                if not rest.startswith(GZIP_START):
                    break  # padding behind the end, which every client ignores
                stream = zlib.decompressobj(_window_bits(rest))
            yield stream.decompress(rest, PIECE_BYTES)
            rest = stream.unconsumed_tail or stream.unused_data
    if stream and not stream.eof:
        raise BadAnswer("the compressed body ends early")


def _window_bits(start: bytes) -> int:
    """How zlib is to read a body that starts so: as gzip, zlib, or deflate without wrapping."""
    if start.startswith(GZIP_START):
        return 16 + zlib.MAX_WBITS
    is_zlib = start[0] & 0x0F == zlib.DEFLATED and int.from_bytes(start[:2], "big") % 31 == 0
    return zlib.MAX_WBITS if is_zlib else -zlib.MAX_WBITS


# ------------------------------------------------------------------ what went wrong


# A peer may echo what it was sent, key included: no text is used that may hold bytes of the peer.
_REASONS: tuple[tuple[type[BaseException], str], ...] = (
    (ssl.SSLCertVerificationError, "the certificate was refused: {0.verify_message}"),
    (ssl.SSLError, "TLS failed: {0.reason}"),
    (http.client.RemoteDisconnected, "the connection was closed without an answer"),
    (http.client.IncompleteRead, "the connection ended before the answer did"),
    (BadAnswer, "{0}"),
    (http.client.HTTPException, "the answer is not valid HTTP"),
    (urllib3.exceptions.ProtocolError, "the answer is not valid HTTP"),
    (urllib3.exceptions.InvalidHeader, "the answer is not valid HTTP"),
    (zlib.error, "the body is not valid gzip or deflate"),
    (ValueError, "the URL, a header or the answer is not valid"),
)


def _failure(deadline: Deadline, error: BaseException) -> TransferError:
    """What to tell the caller about an error, which may come of the deadline's cut."""
    if deadline.passed():
        return deadline.error()
    via_proxy = isinstance(error, urllib3.exceptions.ProxyError)
    return ConnectFailed(("the proxy: " if via_proxy else "") + _reason(_root(error)))


def _reason(error: BaseException) -> str:
    for kind, text in _REASONS:
        if isinstance(error, kind):
            return text.format(error)
    return getattr(error, "strerror", None) or f"the exchange failed ({type(error).__name__})"


def _root(error: BaseException) -> BaseException:
    """The innermost of the errors that urllib3 and http.client wrap into each other."""
    inner = (each for each in error.args if isinstance(each, BaseException))
    deeper = next(inner, None)
    return _root(deeper) if deeper else error
