"""Connections that keep to a deadline and to an address filter: what urllib3 is given to use.

A name is looked up once, every address it has is checked, and the connection goes to one of those
very addresses; TLS server name, Host header and certificate check still see the name. The head of
an answer is bounded here too, since http.client would take megabytes.
"""

import contextlib
import http.client
import io
import ipaddress
import math
import os
import queue
import re
import selectors
import socket
import ssl
import threading
from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from functools import lru_cache
from itertools import zip_longest
from typing import Any, NamedTuple, cast
from urllib.parse import quote

from requests.adapters import DEFAULT_CA_BUNDLE_PATH, HTTPAdapter
from requests.utils import prepend_scheme_if_needed, select_proxy
from urllib3 import HTTPHeaderDict
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import ProxyError
from urllib3.util import Url, parse_url
from urllib3.util.ssl_ import create_urllib3_context

from reelwatch import trust
from reelwatch.deadline import Deadline, DeadlinePassed, TransferError

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Found = Sequence[tuple[int, str]]  # (address family, address) of a name
Resolver = Callable[[str, int], Found]
AddressFilter = Callable[[str, int, Address], bool]
SocketOptions = Iterable[tuple[int, int, int | bytes]]

HEAD_BYTES = 64 * 1024  # status line and headers of one answer, interim answers included
HEADERS = 100  # of one answer
HEAD_START = 0.25  # seconds that an address has before the next one is tried beside it
LOOKUPS = 32  # names that one session looks up at the same time

STATUS_LINE = re.compile(rb"HTTP/1\.(\d)\s+([1-9]\d\d)(?:\s.*)?", re.DOTALL)
HTTP_URL = re.compile(r"(?P<origin>https?://[^/\\?#]+)(?P<target>[^#]*)(?:#.*)?", re.I | re.DOTALL)
BODYLESS = (http.HTTPStatus.NO_CONTENT, http.HTTPStatus.NOT_MODIFIED)
RESERVED = "!$%&'()*+,/:;=?@[]~"  # what stands for itself in a request's target


class ConnectFailed(TransferError):
    """No connection, or one that broke: name, TCP, TLS, reset, or an answer that is not HTTP."""


class AddressBlocked(TransferError):
    """The session's address filter does not let it connect to where the name points."""


class BadAnswer(http.client.HTTPException):
    """The peer's answer breaks a rule; the text is ours and carries none of the peer's bytes."""


# ------------------------------------------------------------------ connecting


def resolve(host: str, port: int) -> list[tuple[int, str]]:
    """Every (family, address) that the system knows for a name, in its order of preference."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys((int(family), str(where[0])) for family, _, _, _, where in found))


class Dialer:
    """Opens connections: looks a name up once, checks every address, connects to one of them."""

    def __init__(self, resolver: Resolver, address_filter: AddressFilter | None) -> None:
        self._resolver = resolver
        self._filter = address_filter
        self._slots = threading.Semaphore(LOOKUPS)

    def dial(
        self, deadline: Deadline, host: str, port: int, options: SocketOptions
    ) -> socket.socket:
        """A socket connected to the first address that answers."""
        addresses = self._checked(deadline, host, port)
        try:
            return _race(deadline, _alternating(addresses), port, options)
        except OSError as error:
            deadline.remaining()
            reason = error.strerror or "no answer"
        raise ConnectFailed(f"no connection to {host} port {port}: {reason}")

    def _checked(self, deadline: Deadline, host: str, port: int) -> list[Address]:
        """The addresses of a host; AddressBlocked if the filter refuses any of them."""
        addresses = self._addresses(deadline, host, port)
        for address in addresses:
            if self._filter and not self._filter(host, port, address):
                raise AddressBlocked(f"{host} is at {address}, which is not a permitted address")
        return addresses

    def _addresses(self, deadline: Deadline, host: str, port: int) -> list[Address]:
        try:
            return [ipaddress.ip_address(host)]
        except ValueError:
            found = self._look_up(deadline, host, port)
        return [ipaddress.ip_address(address) for _, address in found]

    def _look_up(self, deadline: Deadline, host: str, port: int) -> Found:
        """Ask the resolver in a thread, which is left behind if it hangs: its slot stays taken."""
        if not self._slots.acquire(timeout=deadline.remaining()):
            raise DeadlinePassed(f"{host} was not looked up: {LOOKUPS} look-ups hang already")
        answers: queue.SimpleQueue[Found | Exception] = queue.SimpleQueue()
        work = (host, port, answers)
        thread = threading.Thread(target=self._resolve, args=work, name="look-up", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # the system allows no more: then here, as long as it takes
            self._resolve(*work)
        try:
            answer = answers.get(timeout=deadline.remaining())
        except queue.Empty:
            raise DeadlinePassed(f"{host} was not found within {deadline.seconds:g} s") from None
        if isinstance(answer, Exception):
            reason = getattr(answer, "strerror", None) or "not a name that can be looked up"
            raise ConnectFailed(f"{host} was not found: {reason}")
        return answer

    def _resolve(
        self, host: str, port: int, answers: "queue.SimpleQueue[Found | Exception]"
    ) -> None:
        try:
            answers.put(self._resolver(host, port))
        except Exception as error:
            answers.put(error)
        finally:
            self._slots.release()


def _alternating(addresses: Sequence[Address]) -> list[Address]:
    """The addresses in their order, but the two versions in turn: one may lead nowhere here."""
    first = [each for each in addresses if each.version == addresses[0].version]
    others = [each for each in addresses if each not in first]
    pairs = zip_longest(first, others)
    return [each for pair in pairs for each in pair if each is not None]


def _race(
    deadline: Deadline, addresses: Sequence[Address], port: int, options: SocketOptions
) -> socket.socket:
    """Connect to the first address that answers; another one joins every quarter of a second.

    To addresses, never to a name: nothing is looked up a second time. OSError: none answered.
    """
    left, failure = list(addresses), OSError(0, "the name has no address")
    racing = selectors.DefaultSelector()
    try:
        while left or racing.get_map():
            patience = deadline.remaining()
            if left:
                patience = min(HEAD_START, patience)
                try:
                    racing.register(_connecting(left.pop(0), port, options), selectors.EVENT_WRITE)
                except OSError as error:  # a version that this machine has no way for, say
                    failure = error
                    continue
            for key, _ in racing.select(patience):
                sock = cast(socket.socket, key.fileobj)
                racing.unregister(sock)
                code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if code == 0:
                    sock.settimeout(deadline.seconds)
                    deadline.guard(os.dup(sock.fileno()))
                    return sock
                sock.close()
                failure = OSError(code, os.strerror(code))
    finally:
        for key in list(racing.get_map().values()):
            cast(socket.socket, key.fileobj).close()
        racing.close()
    raise failure


def _connecting(address: Address, port: int, options: SocketOptions) -> socket.socket:
    """A socket on its way to an address."""
    family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
    sock = socket.socket(family)
    try:
        for option in options:
            sock.setsockopt(*option)
        sock.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            sock.connect((str(address), port))
    except BaseException:
        sock.close()
        raise
    return sock


# ------------------------------------------------------------------ answers


class _NothingCame(http.client.RemoteDisconnected):
    """The peer closed the connection before the first byte of an answer."""


class _BoundedReader(io.BufferedReader):
    """The bytes of one answer; refuses a head without end and a read without a bound."""

    head_left: float = HEAD_BYTES

    def readline(self, size: int | None = -1, /) -> bytes:
        line = super().readline(size)
        self.head_left -= len(line)
        if self.head_left < 0:
            raise BadAnswer(f"the head of the answer is larger than {HEAD_BYTES} bytes")
        return line

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size < 0:  # http.client takes a chunk of size -1 for "all there is"
            raise BadAnswer("a chunk of the answer has no proper size")
        return super().read(size)


class _Answer(http.client.HTTPResponse):
    """http.client's answer, but for its head, which is bounded and read here.

    http.client leaves headers to the parser for mail, which takes longer than sending a request.
    """

    def __init__(self, sock: socket.socket, debuglevel: int = 0, method: str | None = None) -> None:
        super().__init__(sock, debuglevel, method)
        self._bodyless = method == "HEAD"
        self.fp = self._reader = _BoundedReader(self.fp.detach())

    def begin(self) -> None:
        """Read the head. Interim answers (1xx) are skipped: the answer comes behind them.

        http.client skips only 100. Any other would be taken for the answer, and the real answer for
        that to the next request on the same connection.
        """
        self._expect_something()
        minor, self.status, fields = self._read_head()
        while self.status < http.HTTPStatus.OK:
            if self.status == http.HTTPStatus.SWITCHING_PROTOCOLS:
                raise BadAnswer("the answer is a change of protocol that nobody asked for")
            minor, self.status, fields = self._read_head()
        self._reader.head_left = math.inf
        self.fields = fields
        self.chunked = fields.get("transfer-encoding", "").lower() == "chunked"
        self.chunk_left = None
        self.length = None if self.chunked else self._announced_length()
        connection = fields.get("connection", "").lower()
        kept = "close" not in connection if minor else "keep-alive" in connection
        self.will_close = not kept or (self.length is None and not self.chunked)

    def read(self, amt: int | None = None) -> bytes:
        """At most `amt` bytes of the body; IncompleteRead if it ends before it should."""
        piece = super().read(amt)
        if amt and not piece and self.length:  # http.client leaves that to its callers
            raise http.client.IncompleteRead(b"", self.length)
        return piece

    def _expect_something(self) -> None:
        try:
            if self._reader.peek(1):
                return
        except ConnectionError as error:
            raise _NothingCame("") from error
        raise _NothingCame("")

    def _read_head(self) -> tuple[int, int, HTTPHeaderDict]:
        """The minor version, the status, and the headers; lines that are none are ignored."""
        line = self.fp.readline(HEAD_BYTES + 1)
        if not line:
            raise http.client.RemoteDisconnected("")
        words = STATUS_LINE.fullmatch(line)
        if not words:
            raise http.client.BadStatusLine("")
        fields = HTTPHeaderDict()
        for _ in range(HEADERS + 1):
            line = self.fp.readline(HEAD_BYTES + 1)
            if not line:
                raise http.client.IncompleteRead(b"")
            if line in (b"\r\n", b"\n"):
                return int(words[1]), int(words[2]), fields
            name, colon, value = line.decode("latin-1").partition(":")
            if colon:
                fields.add(name, value.strip())
        raise http.client.HTTPException("too many headers")

    def _announced_length(self) -> int | None:
        """The length of the body in bytes; None if it lasts until the connection ends."""
        if self._bodyless or self.status in BODYLESS:
            return 0
        try:
            lengths = {int(text) for text in self.fields.get("content-length", "").split(",")}
        except ValueError:
            return None
        if len(lengths) > 1:
            raise http.client.HTTPException("two lengths")
        length = lengths.pop()
        return length if length >= 0 else None


# ------------------------------------------------------------------ asking


class Call(NamedTuple):
    """One exchange, as its connection needs to know it."""

    deadline: Deadline
    dialer: Dialer
    method: str
    target: str  # what is asked for: path and query, or a whole URL where a proxy is asked
    headers: Mapping[str, str]
    body: bytes | None
    tunnel: bool  # through a proxy, which is to see nothing of it


class _HTTPConnection(HTTPConnection):
    response_class = _Answer
    call: Call  # the one that it is in
    twin: int | None = None  # of its socket, for the watchdog, while it is kept for the next call

    def _new_conn(self) -> socket.socket:
        options = self.socket_options or ()
        return self.call.dialer.dial(self.call.deadline, self._dns_host, self.port, options)

    def close(self) -> None:
        super().close()
        twin, self.twin = self.twin, None
        if twin is not None:
            os.close(twin)

    def ask(self) -> _Answer:
        """Send the request and read the head of its answer; http.client does all that it takes."""
        call = self.call
        # A peer may answer before it has read all, and refuse the rest.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            http.client.HTTPConnection.request(
                self, call.method, call.target, call.body, call.headers
            )
        return cast(_Answer, http.client.HTTPConnection.getresponse(self))


class _HTTPSConnection(_HTTPConnection, HTTPSConnection):
    pass


class _HTTPPool(HTTPConnectionPool):
    ConnectionCls = _HTTPConnection

    def ask(self, call: Call) -> "Reply":
        """Send a request over a connection of the pool and read the head of its answer.

        `urlopen` does that too, and as much again for retries, redirects and timeouts that nobody
        wants here: a look would take half as long again.
        """
        conn = cast(_HTTPConnection, self._get_conn())
        conn.call = call
        again = conn.twin is not None
        while True:
            try:
                return self._ask(conn)
            except _NothingCame as error:
                if not again or call.deadline.passed():
                    raise error.__cause__ or error from None
                again = False  # what was kept had ended just then: anew, over a fresh one

    def _ask(self, conn: _HTTPConnection) -> "Reply":
        try:
            self._make_ready(conn)
            return Reply(conn.ask(), conn, self)
        except BaseException as error:
            at_proxy = conn.proxy is not None and not conn.has_connected_to_proxy
            conn.close()
            if at_proxy and isinstance(error, OSError | http.client.HTTPException):
                raise ProxyError("", error) from error
            raise

    def _make_ready(self, conn: _HTTPConnection) -> None:
        """Connect; or, if it is a connection that was kept, have it watched."""
        deadline = conn.call.deadline
        twin, conn.twin = conn.twin, None
        if twin is not None:
            deadline.guard(twin)
        elif conn.call.tunnel:
            self._prepare_proxy(conn)
        else:
            conn.connect()
        if conn.sock.gettimeout() != deadline.seconds:  # per read: the second line of defence
            conn.sock.settimeout(deadline.seconds)

    def take_back(self, conn: _HTTPConnection) -> None:
        """Keep a connection, out of the watchdog's reach before another thread may use it."""
        conn.twin = conn.call.deadline.release()
        if conn.twin is None or conn.is_closed:  # cut, or not to be used again
            conn.close()
        else:
            self._put_conn(conn)


class _HTTPSPool(_HTTPPool, HTTPSConnectionPool):
    ConnectionCls = _HTTPSConnection


class Reply:
    """An answer whose body is still to be read. At its end the connection goes back to the pool."""

    def __init__(self, answer: _Answer, conn: _HTTPConnection, pool: _HTTPPool) -> None:
        self.status = answer.status
        self.headers: Mapping[str, str] = answer.fields
        self.received = 0  # bytes of the body
        self._answer = answer
        self._conn: _HTTPConnection | None = conn
        self._pool = pool

    def read(self, size: int) -> bytes:
        """The next piece of the body, `size` bytes at most; empty at its end."""
        piece = self._answer.read(size)
        self.received += len(piece)
        if self._conn is not None and self._answer.isclosed():
            conn, self._conn = self._conn, None
            self._pool.take_back(conn)
        return piece

    def close(self) -> None:
        """Drop the connection, unless the body was read to its end."""
        if self._conn is not None:
            self._answer.close()
            self._conn.close()
            self._conn = None


class Adapter(HTTPAdapter):
    """requests' adapter with these pools, and with certificates that are loaded only once."""

    def __init__(self, pool_size: int, context: ssl.SSLContext, dialer: Dialer) -> None:
        self._dialer = dialer
        self._context = context
        self._lock = threading.Lock()
        super().__init__(pool_connections=pool_size, pool_maxsize=pool_size)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, ssl_context=self._context, **kwargs)
        self.poolmanager.pool_classes_by_scheme = {"http": _HTTPPool, "https": _HTTPSPool}

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        with self._lock:  # nobody gets a manager before it has these pools
            manager = super().proxy_manager_for(proxy, ssl_context=self._context, **kwargs)
            manager.pool_classes_by_scheme = {"http": _HTTPPool, "https": _HTTPSPool}
            return manager

    def ask(
        self, deadline: Deadline, method: str, url: str, headers: Mapping[str, str],
        body: bytes | None, proxies: MutableMapping[str, str],
    ) -> Reply:  # fmt: skip
        """Send a request, by way of the proxy for its URL, and read the head of its answer."""
        origin, target = _parted(url)
        proxy = select_proxy(url, proxies) if proxies else None
        pool = self._pool(origin, proxy)
        tunnel = proxy is not None and origin.scheme == "https"
        if proxy is not None and not tunnel:
            target = f"{origin}{target}"
            headers = {**headers, **pool.proxy_headers}
        return pool.ask(Call(deadline, self._dialer, method, target, headers, body, tunnel))

    def _pool(self, origin: Url, proxy: str | None) -> _HTTPPool:
        manager = self.poolmanager
        if proxy is not None:
            named = prepend_scheme_if_needed(proxy, "http")  # type: ignore[no-untyped-call]
            manager = self.proxy_manager_for(named)
        return cast(
            _HTTPPool, manager.connection_from_host(origin.host, origin.port, origin.scheme)
        )


def _parted(url: str) -> tuple[Url, str]:
    """Scheme, host and port of a URL, and what is asked for there; ValueError where it is none."""
    parts = HTTP_URL.fullmatch(url)
    if parts is None:
        raise ValueError("not an http(s) URL")
    target = quote(parts["target"], safe=RESERVED)
    return _origin(parts["origin"]), target if target.startswith("/") else f"/{target}"


@lru_cache(maxsize=256)
def _origin(text: str) -> Url:
    return parse_url(text)._replace(auth=None)


def tls_context(verify: bool | str) -> ssl.SSLContext:
    """Trust the usual authorities and the environment's, those in a file or folder, or anybody.

    Raises ValueError for what the environment names and can't be read.
    """
    context = create_urllib3_context(cert_reqs=ssl.CERT_REQUIRED if verify else ssl.CERT_NONE)
    if verify:
        trusted = DEFAULT_CA_BUNDLE_PATH if verify is True else verify
        kind = "capath" if os.path.isdir(trusted) else "cafile"
        context.load_verify_locations(**{kind: trusted})
        if verify is True:
            trust.extend(context)
    return context
