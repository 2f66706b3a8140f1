"""Connections that keep to a deadline and to an address filter: what urllib3 is given to use.

A name is looked up once, every address it has is checked, and the connection goes to one of those
very addresses; TLS server name, Host header and certificate check still see the name. The head of
an answer is bounded here too, since http.client would take megabytes.
"""

import http.client
import io
import ipaddress
import math
import os
import queue
import socket
import ssl
import threading
from collections.abc import Callable, Iterable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from requests.adapters import DEFAULT_CA_BUNDLE_PATH, HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.util.ssl_ import create_urllib3_context

from worker.deadline import Deadline, DeadlinePassed, TransferError

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Found = Sequence[tuple[int, str]]  # (address family, address) of a name
Resolver = Callable[[str, int], Found]
AddressFilter = Callable[[str, int, Address], bool]
SocketOptions = Iterable[tuple[int, int, int | bytes]]

HEAD_BYTES = 64 * 1024  # status line and headers of one answer, interim answers included
LOOKUPS = 32  # names that one session looks up at the same time


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
        """A socket connected to the first address that answers; each gets a share of the time."""
        addresses = self._checked(deadline, host, port)
        reason = "the name has no address"
        for left, address in zip(range(len(addresses), 0, -1), addresses, strict=True):
            try:
                return _connect(deadline, address, port, options, deadline.remaining() / left)
            except OSError as error:
                reason = error.strerror or "no answer"
        deadline.remaining()
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
        threading.Thread(target=self._resolve, args=work, name="look-up", daemon=True).start()
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


def _connect(
    deadline: Deadline, address: Address, port: int, options: SocketOptions, seconds: float
) -> socket.socket:
    """Connect to an address, never to a name: nothing is looked up a second time."""
    v6 = isinstance(address, ipaddress.IPv6Address)
    sock = socket.socket(socket.AF_INET6 if v6 else socket.AF_INET)
    try:
        for option in options:
            sock.setsockopt(*option)
        sock.settimeout(seconds)
        deadline.guard(sock)
        sock.connect((str(address), port))
        sock.settimeout(deadline.remaining())
    except BaseException:
        sock.close()
        raise
    return sock


# ------------------------------------------------------------------ what urllib3 uses


@dataclass(frozen=True, slots=True)
class Call:
    """The exchange that a thread is in: what its connections need to know of it."""

    deadline: Deadline
    dialer: Dialer


CALL: ContextVar[Call] = ContextVar("call")


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
    """http.client's answer with a bounded head, and with interim answers (1xx) skipped.

    http.client skips only 100. Any other would be taken for the answer, and the real answer for
    that to the next request on the same connection.
    """

    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self.fp = self._reader = _BoundedReader(self.fp.detach())

    def begin(self) -> None:
        super().begin()
        while self.status < http.HTTPStatus.OK:
            if self.status == http.HTTPStatus.SWITCHING_PROTOCOLS:
                raise BadAnswer("the answer is a change of protocol that nobody asked for")
            self.headers = self.msg = None  # type: ignore[assignment]  # as before the first one
            super().begin()
        self._reader.head_left = math.inf
        # Lines that are no headers are ignored; urllib3 would write all of them to the log.
        self.msg.defects.clear()
        self.msg.set_payload("")


class _HTTPConnection(HTTPConnection):
    response_class = _Answer

    def _new_conn(self) -> socket.socket:
        call = CALL.get()
        options = self.socket_options or ()
        return call.dialer.dial(call.deadline, self._dns_host, self.port, options)

    def request(self, *args: Any, **kwargs: Any) -> None:
        if self.sock is not None:
            CALL.get().deadline.guard(self.sock)
        super().request(*args, **kwargs)


class _HTTPSConnection(_HTTPConnection, HTTPSConnection):
    pass


class _HTTPPool(HTTPConnectionPool):
    ConnectionCls = _HTTPConnection

    def _put_conn(self, conn: Any) -> None:
        """Take a connection back, out of the watchdog's reach before another thread may use it."""
        if conn is not None and CALL.get().deadline.end():
            conn.close()
        super()._put_conn(conn)


class _HTTPSPool(_HTTPPool, HTTPSConnectionPool):
    ConnectionCls = _HTTPSConnection


class Adapter(HTTPAdapter):
    """requests' adapter with these pools, and with certificates that are loaded only once."""

    def __init__(self, pool_size: int, context: ssl.SSLContext, dialer: Dialer) -> None:
        self.dialer = dialer
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


def tls_context(verify: bool | str) -> ssl.SSLContext:
    """Trust the usual authorities, those in a file or directory, or (False) anybody."""
    context = create_urllib3_context(cert_reqs=ssl.CERT_REQUIRED if verify else ssl.CERT_NONE)
    if verify:
        trusted = DEFAULT_CA_BUNDLE_PATH if verify is True else verify
        kind = "capath" if os.path.isdir(trusted) else "cafile"
        context.load_verify_locations(**{kind: trusted})
    return context
