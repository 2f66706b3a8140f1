"""HTTP by libcurl: any number of exchanges at once in one thread, each bounded in time and size.

A deadline covers name look-up, connect, TLS, sending, head and body. Nothing comes from the
environment, no redirect is followed, no cookie is kept. Every connection is checked when its socket
is made: whatever a name has said, it goes to no address that the filter refuses. A request that
meets the end of a kept connection is sent once more, over a new one; nothing else is tried twice.
"""

import contextlib
import ctypes
import os
import selectors
import socket
import time
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import certifi
import pycurl

from reelwatch.config import trust
from reelwatch.net.exchange import OPTIONS, AddressFilter, Ends, Exchange, Resolver
from reelwatch.net.transfer import (
    AddressBlocked,
    BodyTooLarge,
    ConnectFailed,
    DeadlinePassed,
    Outcome,
    Request,
    Response,
    TransferError,
)

__all__ = [
    "USER_AGENT",
    "AddressBlocked",
    "AddressFilter",
    "BodyTooLarge",
    "Client",
    "ConnectFailed",
    "DeadlinePassed",
    "Line",
    "Outcome",
    "Request",
    "Resolver",
    "Response",
    "TransferError",
]

USER_AGENT = f"reelwatch/{version('reelwatch')}"  # reading it takes a millisecond
KEPT = 64  # idle connections of one line
AT_PROXY = {
    pycurl.CAINFO: pycurl.PROXY_CAINFO,
    pycurl.CAINFO_BLOB: pycurl.PROXY_CAINFO_BLOB,
    pycurl.CAPATH: pycurl.PROXY_CAPATH,
}


class Client:
    """The rules for some of our exchanges, and their kept connections. For any number of threads.

    `verify` may be a file or directory of certificates. `address_filter(host, port, address)` is
    asked before every connection. `proxies` are as `requests` has them. `resolver(host, port)`
    gives the addresses of a name in place of the system, or None to leave it to that.
    """

    resolver: Resolver | None = None

    def __init__(
        self,
        *,
        verify: bool | str = True,
        address_filter: AddressFilter | None = None,
        proxies: Mapping[str, str] | None = None,
        resolver: Resolver | None = None,
    ) -> None:
        if any(proxy.lower().startswith("socks") for proxy in (proxies or {}).values()):
            raise ValueError("SOCKS proxies are not supported")
        if proxies and address_filter:
            raise ValueError("an address filter can't see what a proxy connects to")
        self.address_filter = address_filter
        self.proxies = dict(proxies or {})
        if resolver:
            self.resolver = resolver
        self.options = {**OPTIONS, **_trusted(verify, has_proxy=bool(proxies))}
        # By process: what a parent has connected, its children must neither use nor close.
        self._idle: dict[int, list[Line]] = {}

    def ask(self, request: Request) -> Response:
        """One exchange, in this thread. Raises TransferError for whatever the peer does."""
        with self.line() as line:
            line.send(None, request)
            while not (found := line.results(request.deadline_seconds)):
                pass
        ((_, outcome),) = found
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    @contextlib.contextmanager
    def line(self) -> Iterator["Line"]:
        """A line for this thread alone; what is under way at the end is cut."""
        idle = self._idle.setdefault(os.getpid(), [])
        try:
            line = idle.pop()
        except IndexError:
            line = Line(self)
        try:
            yield line
        finally:
            line.cut()
            line.resolver = None
            idle.append(line)

    def close(self) -> None:
        """Drop the idle connections."""
        idle = self._idle.pop(os.getpid(), [])
        for line in idle:
            line.close()


class Line:
    """Exchanges under way in one thread, over connections that are kept for the next ones."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.resolver: Resolver | None = None  # `look_up`, where libcurl can have no thread for it
        self.under_way: set[Exchange] = set()
        self._free: list[Exchange] = []
        self._kept: dict[Ends, int] = {}
        self._watched: set[int] = set()
        self._failed: list[tuple[Any, Outcome | Exception]] = []  # before they began
        self._timer: float | None = None  # when libcurl wants to be called
        self._multi = pycurl.CurlMulti()
        # Not to be freed as a process ends: it would wait for names that are still looked up, and
        # in a child that was forked say goodbye over its parent's connections.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._multi))
        self._multi.setopt(pycurl.M_MAXCONNECTS, KEPT)
        self._multi.setopt(pycurl.M_SOCKETFUNCTION, self._watch)
        self._multi.setopt(pycurl.M_TIMERFUNCTION, self._set_timer)
        self._selector = selectors.DefaultSelector()
        self._woken, self._waker = socket.socketpair()
        self._woken.setblocking(False)
        self._waker.setblocking(False)
        self._selector.register(self._woken, selectors.EVENT_READ)

    def send(self, key: Any, request: Request) -> None:
        """Begin an exchange; its outcome comes with this key."""
        exchange = self._free.pop() if self._free else Exchange(self.client, self._kept)
        try:
            exchange.begin(key, request, self.resolver or self.client.resolver)
        except TransferError as error:
            self._failed.append((key, error))
            self._free.append(exchange)
            return
        self._multi.add_handle(exchange.curl)
        self.under_way.add(exchange)

    def results(self, seconds: float) -> list[tuple[Any, Outcome | Exception]]:
        """The exchanges that have ended, by their keys; empty after so long, or when woken.

        What nobody has foreseen is the outcome of its exchange alone.
        """
        end = time.monotonic() + seconds
        while not (ended := self._ended()):
            now = time.monotonic()
            if now >= end:
                break
            until = end if self._timer is None else min(end, self._timer)
            if self._move(max(0.0, until - now)):
                return self._ended()
        return ended

    def wake(self) -> None:
        """Have `results` return, in another thread."""
        with contextlib.suppress(BlockingIOError):  # it is woken already
            self._waker.send(b"!")

    def cut(self) -> None:
        """End what is under way without an outcome."""
        for exchange in list(self.under_way):
            self._end(exchange)
        self._failed.clear()

    def close(self) -> None:
        """Drop the connections. Waits for names that are being looked up."""
        self.cut()
        for exchange in self._free:
            exchange.curl.close()
        self._multi.close()
        ctypes.pythonapi.Py_DecRef(ctypes.py_object(self._multi))
        self._selector.close()
        self._woken.close()
        self._waker.close()

    def _move(self, seconds: float) -> bool:
        """Wait so long for something to happen, and have it done; true if woken."""
        woken = False
        for key, events in self._selector.select(seconds):
            if key.fileobj is self._woken:
                self._woken.recv(4096)
                woken = True
                continue
            reads = pycurl.CSELECT_IN if events & selectors.EVENT_READ else 0
            writes = pycurl.CSELECT_OUT if events & selectors.EVENT_WRITE else 0
            self._multi.socket_action(key.fd, reads | writes)
        if self._timer is not None and self._timer <= time.monotonic():
            self._timer = None
            self._multi.socket_action(pycurl.SOCKET_TIMEOUT, 0)
        return woken

    def _ended(self) -> list[tuple[Any, Outcome | Exception]]:
        ended, self._failed = self._failed, []
        left = 1 if self.under_way else 0
        while left:
            left, done, failed = self._multi.info_read()
            codes = [(curl, pycurl.E_OK, "") for curl in done] + failed
            for curl, code, text in codes:
                exchange = curl.exchange
                outcome: Outcome | Exception | None
                try:
                    outcome = self._outcome(exchange, code, text)
                except Exception as error:
                    outcome = error
                if outcome is not None:
                    ended.append((exchange.key, outcome))
                    self._end(exchange)
        return ended

    def _outcome(self, exchange: Exchange, code: int, text: str) -> Outcome | None:
        """What has come of an exchange that has ended; None for one that is begun anew."""
        curl = exchange.curl
        if exchange.is_stale:
            self._multi.remove_handle(curl)
            exchange.begin_anew()
            self._multi.add_handle(curl)
            return None
        exchange.keep()
        outcome = exchange.outcome(code, text)
        if isinstance(outcome, TransferError):
            outcome.elapsed_seconds = curl.getinfo(pycurl.TOTAL_TIME)
        return outcome

    def _end(self, exchange: "Exchange") -> None:
        self.under_way.discard(exchange)
        self._multi.remove_handle(exchange.curl)
        exchange.clear()
        self._free.append(exchange)

    def _watch(self, what: int, fd: int, _multi: Any, _data: Any) -> None:
        """Have the selector watch a descriptor for what libcurl waits for; or not any more."""
        reads = selectors.EVENT_READ if what & pycurl.POLL_IN else 0
        writes = selectors.EVENT_WRITE if what & pycurl.POLL_OUT else 0
        if fd in self._watched:
            self._selector.unregister(fd)
            self._watched.discard(fd)
        if what != pycurl.POLL_REMOVE and reads | writes:
            self._selector.register(fd, reads | writes)
            self._watched.add(fd)

    def _set_timer(self, milliseconds: int) -> None:
        self._timer = time.monotonic() + milliseconds / 1000 if milliseconds >= 0 else None


def look_up(host: str, port: int) -> list[str]:
    """The addresses that the system knows for a name. As long as it takes. Raises OSError."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(where[0]) for *_, where in found))


def _trusted(verify: bool | str, *, has_proxy: bool) -> dict[int, Any]:
    """Trust the usual authorities and the environment's, those in a file or folder, or anybody.

    Raises ValueError for what the environment names and can't be read.
    """
    if not verify:
        return {pycurl.SSL_VERIFYPEER: 0, pycurl.SSL_VERIFYHOST: 0}
    files, folders = trust.places(certifi.where()) if verify is True else trust.parted([verify])
    options: dict[int, Any] = {pycurl.CAINFO: None}
    if files:
        bundle = b"\n".join(Path(path).read_bytes() for path in files)
        path = files[0] if len(files) == 1 else _in_memory(bundle)
        # Of a file libcurl keeps what it has read. It copies a blob for each handle and connection.
        options = {pycurl.CAINFO: path} if path else {pycurl.CAINFO_BLOB: bundle}
    if folders:
        options[pycurl.CAPATH] = os.pathsep.join(folders)
    if has_proxy:
        options |= {AT_PROXY[each]: value for each, value in options.items() if value}
    return options


@cache
def _in_memory(content: bytes) -> str | None:
    """The path of a file without a place on any disk, or None where the system has no such file.

    It is there until the process ends, and in what it forks; nobody has to remove it.
    """
    if not hasattr(os, "memfd_create"):
        return None
    try:
        fd = os.memfd_create("authorities")
    except OSError:
        return None
    path = Path(f"/proc/self/fd/{fd}")
    try:
        os.write(fd, content)
        if path.read_bytes() == content:
            return str(path)
    except OSError:
        pass
    os.close(fd)
    return None
