"""Which callback URLs are accepted, and which addresses are public.

A URL is checked when it is handed in, by its text alone, and again before each sending. What a
name points at is checked at every connection (`net.exchange`), since that may change at any time.
"""

import ipaddress
import re
import unicodedata
from dataclasses import dataclass
from typing import NamedTuple
from urllib.parse import quote

from reelwatch.errors import NotConfigured, Refused

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

MAX_URL_CHARACTERS = 2000
PORTS = (80, 443, 8443)
DEFAULT_PORTS = {"http": 80, "https": 443}

_ACCEPTED = (
    "accepted are https URLs of public hosts, like https://hooks.example.com/reelwatch, on port "
    "443, 8443 or 80, and what WEBHOOK_ALLOW names"
)

_URL = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?P<authority>[^/?#]*)(?P<rest>[^#]*)", re.I)
_AUTHORITY = re.compile(r"(?P<host>\[[^\[\]]*\]|[^:\[\]]+)(?::(?P<port>.*))?", re.S)
_PORT = re.compile(r"[1-9][0-9]{0,4}", re.A)
_NAME = re.compile(r"(?=.{1,253}\Z)(?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?(?:\.|\Z))+", re.A)
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*", re.A)  # as a last label, it makes a host an IPv4
_KEPT = "/?:@!$&'()*+,;=-._~%"  # what stands for itself in a path and query

# Names of machines nearby, by their last label.
_NEARBY = re.compile(
    r"(?:.*\.)?(?:localhost|local|localdomain|internal|intranet|lan|home|corp|private|home\.arpa)"
)

# What IANA's registries set aside, and addresses where clouds answer their own machines. Some of it
# Python calls global, which ones depends on its version.
_NOT_PUBLIC_V4 = tuple(
    ipaddress.IPv4Network(text)
    for text in (
        "0.0.0.0/8",  # this network
        "10.0.0.0/8",  # private
        "100.64.0.0/10",  # carrier-grade NAT; 100.100.100.200 is Alibaba's metadata
        "127.0.0.0/8",  # loopback
        "168.63.129.16/32",  # Azure's machine services
        "169.254.0.0/16",  # link-local; 169.254.169.254 is most clouds' metadata
        "172.16.0.0/12",  # private
        "192.0.0.0/24",  # protocol assignments; 192.0.0.192 is Oracle's metadata
        "192.0.2.0/24",  # documentation
        "192.88.99.0/24",  # relays of 6to4
        "192.168.0.0/16",  # private
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, broadcast
    )
)
# Only 2000::/3 is in public use. That alone leaves out loopback, IPv4-mapped, -compatible and
# -translated (::/8), NAT64 (64:ff9b::/96, 64:ff9b:1::/48), discard (100::/64), segment routing
# (5f00::/16), unique local (fc00::/7, with fd00:ec2::254), link-local, site-local and multicast.
_PUBLIC_V6 = ipaddress.IPv6Network("2000::/3")
_NOT_PUBLIC_V6 = tuple(
    ipaddress.IPv6Network(text)
    for text in (
        "2001::/23",  # protocol assignments: Teredo, benchmarks, ORCHID and others
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4: an IPv4 address in disguise
        "3ffe::/16",  # the former 6bone
        "3fff::/20",  # documentation
    )
)


def is_public(address: Address) -> bool:
    """Whether an address is globally routable, and nothing else than an address."""
    if isinstance(address, ipaddress.IPv4Address):
        return address.is_global and not any(address in network for network in _NOT_PUBLIC_V4)
    if address not in _PUBLIC_V6 or not address.is_global:
        return False
    return not any(address in network for network in _NOT_PUBLIC_V6)


# ------------------------------------------------------------------ what is allowed though private


@dataclass(frozen=True, slots=True)
class _Entry:
    """A host by its exact name, or a network; either on one port or on all (None)."""

    target: str | Network
    port: int | None


@dataclass(frozen=True, slots=True)
class Allowlist:
    """Hosts and networks that may be private, and be asked by plain http and on any port."""

    entries: tuple[_Entry, ...] = ()

    def names(self, host: str, port: int) -> bool:
        """Whether it opens this host of a URL: a name in lower case, or an address."""
        address = _address(host)
        return self._opens(host, port) or (address is not None and self._opens(address, port))

    def reaches(self, host: str, port: int, address: Address) -> bool:
        """Whether a connection for this host may go to this address of it."""
        return self._opens(host, port) or self._opens(address, port)

    def _opens(self, what: str | Address, port: int) -> bool:
        return any(
            entry.port in (None, port)
            and (what == entry.target if isinstance(entry.target, str) else what in entry.target)
            for entry in self.entries
            if isinstance(entry.target, str) == isinstance(what, str)
        )


def parse_allowlist(text: str) -> Allowlist:
    """Read `WEBHOOK_ALLOW`: `host`, `host:port`, `address`, `[v6]:port` or CIDR, comma-separated.

    Raises ValueError, which names the first entry that is none of these.
    """
    entries = (entry.strip() for entry in text.split(","))
    return Allowlist(tuple(_entry(entry) for entry in entries if entry))


def _entry(text: str) -> _Entry:
    bare_v6 = text.count(":") > 1 and not text.startswith("[")
    try:
        if "/" in text:
            return _Entry(ipaddress.ip_network(text), None)
        place = _place(f"[{text}]" if bare_v6 else text.lower())
    except ValueError as error:
        several = "; separate entries with commas" if " " in text else ""
        what = "a host, host:port, address or CIDR"
        raise ValueError(f"{text!r} is not {what} ({error}){several}") from None
    address = _address(place.host)
    return _Entry(ipaddress.ip_network(address) if address else place.host, place.port)


# ------------------------------------------------------------------ callback URLs


class _Place(NamedTuple):
    """Host (a name in ASCII and lower case, or an address without brackets) and port of a URL."""

    host: str
    port: int | None


class _NotPublic(ValueError):
    """A proper URL, and not a stranger's: only WEBHOOK_ALLOW could permit it."""


def check_url(url: str, allow: Allowlist) -> str:
    """The URL in its normal form, without fragment. By its text alone: nothing is looked up.

    Raises `Refused` if it may not be called, `NotConfigured` where WEBHOOK_ALLOW could permit it.
    """
    try:
        _check_text(url)
        normal = _normal(url, allow)
        _check_text(normal)  # it may have grown
    except ValueError as error:
        kind = NotConfigured if isinstance(error, _NotPublic) else Refused
        raise kind(f"callback URL refused: {error}; {_ACCEPTED}") from None
    return normal


def _normal(url: str, allow: Allowlist) -> str:
    parts = _URL.match(url)
    if parts is None or parts["scheme"].lower() not in DEFAULT_PORTS:
        raise ValueError("it does not begin with https://")
    if "@" in parts["authority"]:
        raise ValueError("it holds a user name or password")
    scheme = parts["scheme"].lower()
    place = _place(parts["authority"].lower())
    port = place.port or DEFAULT_PORTS[scheme]
    if not allow.names(place.host, port):
        _check_public(scheme, place.host, port, allow)
    host = f"[{place.host}]" if ":" in place.host else place.host
    suffix = "" if port == DEFAULT_PORTS[scheme] else f":{port}"
    rest = parts["rest"] if parts["rest"].startswith("/") else "/" + parts["rest"]
    return f"{scheme}://{host}{suffix}{quote(rest, safe=_KEPT)}"


def _check_text(url: str) -> None:
    """Refuse what is too long, and characters that parsers differ about."""
    if len(url) > MAX_URL_CHARACTERS:
        raise ValueError(f"it is longer than {MAX_URL_CHARACTERS} characters")
    if "\\" in url:
        raise ValueError("it holds a backslash")
    for character in url:  # separators (Z) and control, format, surrogate characters (C)
        if unicodedata.category(character)[0] in "ZC":
            raise ValueError(f"it holds a space or control character (U+{ord(character):04X})")


def _check_public(scheme: str, host: str, port: int, allow: Allowlist) -> None:
    """What a stranger's URL must be, unless WEBHOOK_ALLOW names its host."""
    address = _address(host)
    if address is not None and not is_public(address):
        raise _NotPublic(f"{host} is not a public address")
    # A name is judged by its text: where it points to may be known to nobody when it is handed in.
    hint = ""
    if address is None and any(not isinstance(each.target, str) for each in allow.entries):
        hint = f" (WEBHOOK_ALLOW has networks, but not this name: list {host} there, too)"
    if address is None and ("." not in host or _NEARBY.fullmatch(host)):
        raise _NotPublic(f"{host} is not the full name of a public host{hint}")
    if scheme != "https":
        raise _NotPublic(f"it is not https{hint}")
    if port not in PORTS:
        raise _NotPublic(f"port {port} is not permitted{hint}")


def _place(authority: str) -> _Place:
    """Split `host`, `host:port`, `[v6]` or `[v6]:port`; raises ValueError for anything else."""
    parts = _AUTHORITY.fullmatch(authority)
    if parts is None:
        raise ValueError("it has no proper host")
    return _Place(_host(parts["host"]), None if parts["port"] is None else _port(parts["port"]))


def _port(text: str) -> int:
    if not _PORT.fullmatch(text) or int(text) > 65535:
        raise ValueError(f"{text!r} is not a port")
    return int(text)


def _host(text: str) -> str:
    """A host as it will be looked up; refuses what is an address only to lenient readers."""
    if "%" in text:
        raise ValueError(f"{text!r} holds a percent sign")
    if text.startswith("["):
        address = _address(text[1:-1])
        if not isinstance(address, ipaddress.IPv6Address):
            raise ValueError(f"{text!r} is not an IPv6 address")
        return str(address)
    name = ascii_name(text)
    name = name.removesuffix(".")  # a full name may end so; certificates and lists have it without
    if _NUMBER.fullmatch(name.rpartition(".")[2]):
        if name != text or _address(name) is None:
            raise ValueError(f"{text!r} is not an address in its plain form, like 192.0.2.1")
        return name
    if not _NAME.fullmatch(name) or name.endswith("."):
        raise ValueError(f"{text!r} is not a host name")
    return name


def ascii_name(text: str) -> str:
    """A host's name as it is looked up. Raises ValueError."""
    if text.isascii():
        return text
    import idna  # noqa: PLC0415 - 2 MiB, and most names are ASCII

    try:
        return idna.encode(text, uts46=True).decode("ascii")
    except idna.IDNAError as error:
        raise ValueError(f"{text!r} is not a host name ({error})") from None


def _address(host: str) -> Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None
