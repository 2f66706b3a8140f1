"""One exchange by libcurl: a request, its answer or why there is none, and all that bounds it."""

import ipaddress
import math
import os
import re
import select
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import pycurl

from reelwatch.net.inflating import PACKED, DamagedBody, inflated
from reelwatch.net.transfer import (
    AddressBlocked,
    BodyTooLarge,
    ConnectFailed,
    DeadlinePassed,
    Headers,
    Outcome,
    Request,
    Response,
    first_status,
    header_lines,
    parted,
    read_head,
)

HEAD_BYTES = 64 * 1024  # status line and headers of one answer, interim answers included
MOST_KEPT = 1000  # connections that are remembered, many of which are closed
OPENSSL_ERROR = re.compile(r"error:[0-9A-F]+:[^:]*:[^:]*:([\w ]+)")
REFUSED_FOR = re.compile(r"SSL certificate (?:problem|OpenSSL verify result): ([\w ,'-]*\w)")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
AddressFilter = Callable[[str, int, Address], bool]
Ends = tuple[Any, ...]  # of a connection: addresses and ports
Resolver = Callable[[str, int], Sequence[str] | None]


class Rules(Protocol):
    """What holds for all exchanges of a client; `http.Client` says what each is."""

    address_filter: AddressFilter | None
    proxies: dict[str, str]
    options: dict[int, Any]


class Exchange:
    """One of a line's handles, and what has come of the exchange it is in."""

    def __init__(self, client: Rules, kept: dict[Ends, int]) -> None:
        """`kept` has the descriptors of the connections of the line's earlier exchanges."""
        self._client = client
        self._kept = kept
        self._manner: tuple[str, bool] | None = None  # what the handle is set up for
        self._lines: list[bytes] | None = None
        self.curl = pycurl.Curl()
        self.curl.exchange = self
        self.clear()

    def clear(self) -> None:
        """Forget the last exchange."""
        self.key: Any = None
        self._head: list[bytes] = []
        self._head_left = HEAD_BYTES
        self._pieces: list[bytes] = []
        self._body_left = 0
        self._blocked = ""  # the address that the filter has refused
        self._is_new = False  # the connection
        self.is_stale = False  # the connection, and nothing was sent: it is to be tried anew

    def begin(self, key: Any, request: Request, resolver: Resolver | None) -> None:
        """Say all to libcurl that there is to say. Raises TransferError for what can't be sent.

        The resolver is asked in place of libcurl's.
        """
        self.key, self._request = key, request
        self._body_left = request.max_bytes
        if request.deadline_seconds <= 0:
            raise self._too_late()
        try:
            self._place, target = parted(request.url)
            self._set(target, resolver)
        except (ValueError, pycurl.error):
            raise ConnectFailed("the URL, a header or the answer is not valid") from None

    def _set(self, target: str, resolver: Resolver | None) -> None:
        request, curl, client = self._request, self.curl, self._client
        manner = (request.method, request.body is not None)
        if manner != self._manner:
            self._set_up(*manner)
            self._manner = manner
        if request.body is not None:
            curl.setopt(pycurl.POSTFIELDS, request.body)
        curl.setopt(pycurl.URL, f"{self._place}{target}")
        lines = header_lines(tuple(request.headers.items()), request.decode)
        if lines is not self._lines:  # those that it was given last
            curl.setopt(pycurl.HTTPHEADER, lines)
            self._lines = lines
        curl.setopt(pycurl.TIMEOUT_MS, max(1, round(request.deadline_seconds * 1000)))
        curl.setopt(pycurl.FRESH_CONNECT, 0)
        self._proxy = _proxy_for(request.url, client.proxies) if client.proxies else None
        curl.setopt(pycurl.PROXY, self._proxy or "")
        asks = resolver and not self._proxy and _address(self._place.host) is None
        found = self._resolve(resolver) if resolver and asks else []
        # Each connection goes to where the name points now. What we have looked up is for this
        # exchange, and expires after it; where libcurl looks up itself, nothing it keeps counts.
        kept_seconds = math.ceil(request.deadline_seconds) + 1 if found else 0
        curl.setopt(pycurl.RESOLVE, found)
        curl.setopt(pycurl.DNS_CACHE_TIMEOUT, kept_seconds)

    def _set_up(self, method: str, has_body: bool) -> None:
        """Begin with what holds for all requests like this one: of others nothing is left."""
        curl = self.curl
        curl.reset()
        self._lines = None
        for option, value in self._client.options.items():
            curl.setopt(option, value)
        curl.setopt(pycurl.HEADERFUNCTION, self._on_header)
        curl.setopt(pycurl.WRITEFUNCTION, self._on_piece)
        curl.setopt(pycurl.OPENSOCKETFUNCTION, self._on_connect)
        curl.setopt(pycurl.PREREQFUNCTION, self._on_ready)
        if method == "HEAD":
            curl.setopt(pycurl.NOBODY, 1)
        elif method != ("POST" if has_body else "GET"):
            curl.setopt(pycurl.CUSTOMREQUEST, method)

    def begin_anew(self) -> None:
        """The same once more, over a new connection."""
        self.is_stale = False
        self.curl.setopt(pycurl.FRESH_CONNECT, 1)

    def _resolve(self, resolver: Resolver) -> list[str]:
        """Where the resolver says that the name points, for libcurl; empty if that is to ask."""
        host, port = self._place.host, self._place.port
        try:
            found = resolver(host, port)
        except OSError as error:
            raise ConnectFailed(f"{host} was not found: {error.strerror}") from None
        if found is None:
            return []
        if not found:
            raise ConnectFailed(f"{host} was not found: the name has no address")
        addresses = ",".join(str(ipaddress.ip_address(each)) for each in found)
        return [f"+{host}:{port}:{addresses}"]  # + is for what may expire

    # What libcurl calls. An exception would end up on stderr.

    def _on_connect(self, _purpose: int, where: Any) -> socket.socket | int:
        """A socket for this address, which comes of a look-up, or of a proxy's."""
        may = self._client.address_filter
        address = _address(where.addr[0])
        if may and not (address and may(self._place.host, self._place.port, address)):
            self._blocked = str(address)
            return NO_SOCKET
        self._is_new = True
        try:
            return open_socket(where)
        except OSError:
            return NO_SOCKET

    def _on_ready(self, *ends: Any) -> int:
        """A connection is there. If it is a kept one that says something unasked, or has ended, no.

        What it says would be taken for the answer: to a question that it was never asked.
        """
        if not self._is_new:
            fd = self._kept.get(ends)
            self.is_stale = fd is None or _is_readable(fd)
        return PREREQ_ABORT if self.is_stale else PREREQ_OK

    def _on_header(self, line: bytes) -> int | None:
        self._head.append(line)
        self._head_left -= len(line)
        return -1 if self._head_left < 0 else None

    def _on_piece(self, piece: bytes) -> int | None:
        self._pieces.append(piece)
        self._body_left -= len(piece)
        return -1 if self._body_left < 0 else None  # the rest is not read

    # What came of it.

    def keep(self) -> None:
        """Remember the connection, which may be used again."""
        if not self._is_new:  # it is known
            return
        fd = self.curl.getinfo(pycurl.ACTIVESOCKET)
        if fd >= 0:
            if len(self._kept) > MOST_KEPT:
                self._kept.clear()
            self._kept[tuple(self.curl.getinfo(info) for info in ENDS)] = fd

    def outcome(self, code: int, text: str) -> Outcome:
        """The answer, or why there is none. `text` is libcurl's, and may quote the peer."""
        if self._head_left < 0 or code == TOO_LARGE:
            return self._of_large_head()
        if code in CODES_OF_HEADS and self._head:  # which libcurl may take for whole
            try:
                status, headers = read_head(self._head, truncate=self._request.truncate)
            except ValueError as error:
                return ConnectFailed(str(error))
            if code == pycurl.E_OK or self._body_left < 0:
                return self._answer(status, headers)
        if code == pycurl.E_OPERATION_TIMEDOUT:
            return self._too_late()
        if code == pycurl.E_COULDNT_CONNECT and self._blocked:
            at = f"{self._place.host} is at {self._blocked}"
            return AddressBlocked(f"{at}, which is not a permitted address")
        return ConnectFailed(self._reason(code, text))

    def _of_large_head(self) -> Outcome:
        """Who has a body cut off has no need of all headers either: the status came first."""
        if self._request.truncate and (status := first_status(self._head)) is not None:
            return self._answer(status, Headers())
        return ConnectFailed(
            f"the head of the answer is larger than {HEAD_BYTES} bytes, or has thousands of headers"
        )

    def _answer(self, status: int, headers: Headers) -> Outcome:
        request, is_cut = self._request, self._body_left < 0
        pieces: Iterable[bytes] = self._pieces
        if request.decode and headers.get("content-encoding", "").lower() in PACKED:
            pieces = inflated(pieces, is_cut=is_cut)
        try:
            body, is_larger = _bounded(pieces, request.max_bytes)
        except DamagedBody as error:
            return ConnectFailed(str(error))
        if (is_cut or is_larger) and not request.truncate:
            return BodyTooLarge(f"the answer is larger than {request.max_bytes} bytes")
        took: float = self.curl.getinfo(pycurl.TOTAL_TIME)
        return Response(status, headers, body, took)

    def _too_late(self) -> DeadlinePassed:
        return DeadlinePassed(f"no complete answer within {self._request.deadline_seconds:g} s")

    def _reason(self, code: int, text: str) -> str:
        """Why there is no answer. A peer may echo what it was sent: no text of its is used."""
        if not self._proxy:
            return self._reason_at(code, text, f"{self._place.host} port {self._place.port}")
        answered = self.curl.getinfo(pycurl.HTTP_CONNECTCODE)
        if answered and answered // 100 != 2:
            return f"the proxy: it answered {answered}"
        if code in AT_PROXY or (self._place.scheme == "https" and not answered):
            return "the proxy: " + self._reason_at(code, text, "it")
        return self._reason_at(code, text, "")

    def _reason_at(self, code: int, text: str, where: str) -> str:
        number = self.curl.getinfo(pycurl.OS_ERRNO)
        system = os.strerror(number) if number else ""
        if code in NOT_FOUND:
            return f"{self._place.host} was not found: no address is known for that name"
        if code == pycurl.E_COULDNT_CONNECT:
            return f"no connection to {where}: {system or 'no answer'}"
        if code in (pycurl.E_SSL_CONNECT_ERROR, pycurl.E_PEER_FAILED_VERIFICATION):
            return self._reason_of_tls(text) or f"TLS failed: {system or 'no reason given'}"
        if code == pycurl.E_RECV_ERROR and "chunk" in text:
            return "a chunk of the answer has no proper size"
        return REASONS.get(code) or system or f"the exchange failed (libcurl's error {code})"

    def _reason_of_tls(self, text: str) -> str | None:
        """What OpenSSL says; empty where it is not OpenSSL that is used."""
        if found := OPENSSL_ERROR.search(text):
            return f"TLS failed: {found[1].strip().replace(' ', '_').upper()}"
        if found := REFUSED_FOR.match(text):
            return f"the certificate was refused: {found[1]}"
        if "subject name" in text or "altname" in text or "IP address" in text:
            name = self._place.host
            return f"the certificate was refused: Hostname mismatch, it is not valid for {name!r}"
        return None


NO_SOCKET: int = pycurl.SOCKET_BAD
PREREQ_OK: int = pycurl.PREREQFUNC_OK
PREREQ_ABORT: int = pycurl.PREREQFUNC_ABORT
ENDS = (pycurl.PRIMARY_IP, pycurl.LOCAL_IP, pycurl.PRIMARY_PORT, pycurl.LOCAL_PORT)
# Not named by pycurl.
SUPPRESS_CONNECT_HEADERS = 265
WEIRD_SERVER_REPLY = 8
TOO_LARGE = 100

# One request must not be held against others: nothing is kept but connections.
OPTIONS: dict[int, Any] = {
    pycurl.NOSIGNAL: 1,
    pycurl.NOPROXY: "",  # or the environment's would count
    pycurl.PROTOCOLS: pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS,
    pycurl.HTTP_VERSION: pycurl.CURL_HTTP_VERSION_1_1,
    pycurl.SSLVERSION: pycurl.SSLVERSION_TLSv1_2,
    SUPPRESS_CONNECT_HEADERS: 1,  # what a proxy says first is not the answer
    pycurl.PATH_AS_IS: 1,
}
REASONS = {
    pycurl.E_UNSUPPORTED_PROTOCOL: "the answer is not valid HTTP",
    WEIRD_SERVER_REPLY: "the answer is not valid HTTP",
    pycurl.E_URL_MALFORMAT: "the URL, a header or the answer is not valid",
    pycurl.E_PARTIAL_FILE: "the connection ended before the answer did",
    pycurl.E_GOT_NOTHING: "the connection was closed without an answer",
    pycurl.E_SSL_CACERT_BADFILE: "the file of trusted certificates can't be read",
}
NOT_FOUND = (pycurl.E_COULDNT_RESOLVE_HOST, pycurl.E_COULDNT_RESOLVE_PROXY)
CODES_OF_HEADS = (pycurl.E_OK, pycurl.E_GOT_NOTHING, pycurl.E_WRITE_ERROR)
AT_PROXY = (pycurl.E_COULDNT_RESOLVE_PROXY, pycurl.E_COULDNT_CONNECT)


def _bounded(pieces: Iterable[bytes], most: int) -> tuple[bytes, bool]:
    """At most so many bytes of a body, and whether there are more."""
    content = bytearray()
    for piece in pieces:
        content += piece
        if len(content) > most:
            return bytes(content[:most]), True
    return bytes(content), False


def _proxy_for(url: str, proxies: Mapping[str, str]) -> str | None:
    """The proxy of them that such a URL is asked through."""
    from requests.utils import select_proxy  # noqa: PLC0415 - 5 MiB, and most have no proxy

    return select_proxy(url, dict(proxies))


def _is_readable(fd: int) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(0))


def open_socket(where: Any) -> socket.socket:
    """A socket that libcurl may connect to this address."""
    return socket.socket(where.family, where.socktype, where.protocol)


def _address(host: str) -> Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None
