"""Callback URLs as an attack: which are accepted, and that a sender reaches nothing private.

The internet of these tests is this machine: names have the addresses that a test gives them, and a
connection to a public address arrives at a peer on loopback. What has no such address fails.
"""

import contextlib
import ipaddress
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pycurl
import pytest

from reelwatch.errors import NotConfigured, Refused
from reelwatch.net import exchange
from reelwatch.net.http import (
    AddressBlocked,
    ConnectFailed,
    DeadlinePassed,
    Response,
    TransferError,
)
from reelwatch.net.outbound import Sender
from reelwatch.rules.callback_url import Allowlist, check_url, is_public, parse_allowlist
from tests.peers import AUTHORITY, Line, Peer, answer, answering

PUBLIC = "93.184.215.14"
PUBLIC_6 = "2606:2800:21f:cb07:6820:80da:af6b:8b2c"
NOBODY = Allowlist()

# ------------------------------------------------------------------ addresses

PRIVATE = {
    "this network": "0.0.0.0",
    "this network, too": "0.1.2.3",
    "private 10": "10.0.0.1",
    "private 172.16": "172.16.0.1",
    "private 172.31": "172.31.255.255",
    "private 192.168": "192.168.1.1",
    "loopback": "127.0.0.1",
    "loopback's end": "127.255.255.254",
    "link-local": "169.254.1.1",
    "carrier-grade NAT": "100.64.0.1",
    "carrier-grade NAT's end": "100.127.255.255",
    "protocol assignments": "192.0.0.1",
    "protocol assignments that Python calls global": "192.0.0.9",
    "documentation 1": "192.0.2.1",
    "documentation 2": "198.51.100.1",
    "documentation 3": "203.0.113.1",
    "6to4 relay": "192.88.99.1",
    "benchmarks": "198.18.0.1",
    "benchmarks' end": "198.19.255.255",
    "multicast": "224.0.0.1",
    "multicast's end": "239.255.255.255",
    "reserved": "240.0.0.1",
    "broadcast": "255.255.255.255",
    "metadata": "169.254.169.254",
    "metadata of Azure": "168.63.129.16",
    "metadata of Alibaba": "100.100.100.200",
    "metadata of Oracle": "192.0.0.192",
    "metadata of AWS": "fd00:ec2::254",
    "unspecified 6": "::",
    "loopback 6": "::1",
    "link-local 6": "fe80::1",
    "site-local": "fec0::1",
    "unique local": "fc00::1",
    "unique local's end": "fdff::1",
    "multicast 6": "ff02::1",
    "mapped loopback": "::ffff:127.0.0.1",
    "mapped metadata": "::ffff:169.254.169.254",
    "mapped public": f"::ffff:{PUBLIC}",
    "compatible": "::10.0.0.1",
    "compatible public": f"::{PUBLIC}",
    "translated": "::ffff:0:10.0.0.1",
    "6to4 of a private one": "2002:0a00:0001::1",
    "6to4 of a public one": "2002:5db8:d70e::1",
    "Teredo": "2001:0:4136:e378:8000:63bf:3fff:fdd2",
    "benchmarks 6": "2001:2::1",
    "ORCHID": "2001:10::1",
    "ORCHID 2": "2001:20::1",
    "documentation 6": "2001:db8::1",
    "documentation 6, the new one": "3fff::1",
    "former 6bone": "3ffe::1",
    "NAT64 of a private one": "64:ff9b::10.0.0.1",
    "NAT64 of a public one": f"64:ff9b::{PUBLIC}",
    "NAT64, local": "64:ff9b:1::10.0.0.1",
    "discard": "100::1",
    "segment routing": "5f00::1",
    "never assigned": "4000::1",
}
ROUTABLE = [
    *("1.1.1.1", "8.8.8.8", PUBLIC, "100.63.255.255", "100.128.0.1", "172.15.0.1", "172.32.0.1"),
    *("168.63.129.15", "168.63.129.17", "192.0.1.1", "198.17.0.1", "198.20.0.1", "223.255.255.255"),
    *(
        "2001:200::1",
        "2001:4860:4860::8888",
        "2003::1",
        "2606:4700:4700::1111",
        "3ffd::1",
        PUBLIC_6,
    ),
]


@pytest.mark.parametrize("address", PRIVATE.values(), ids=PRIVATE)
def test_what_is_not_globally_routable_is_not_public(address: str) -> None:
    assert not is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize("address", ROUTABLE)
def test_what_is_globally_routable_is_public(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))


# ------------------------------------------------------------------ URLs as handed in


def wide(text: str) -> str:
    """The same characters from another corner of Unicode, which IDNA takes for these."""
    return "".join(chr(ord(character) + 0xFEE0) for character in text)


ACCEPTED = {
    "https://hooks.example.com": "https://hooks.example.com/",
    "https://hooks.example.com/a/b?c=d&e=%20": "https://hooks.example.com/a/b?c=d&e=%20",
    "HTTPS://Hooks.Example.COM:443/A": "https://hooks.example.com/A",
    "https://hooks.example.com:8443/": "https://hooks.example.com:8443/",
    "https://hooks.example.com:80/": "https://hooks.example.com:80/",
    "https://hooks.example.com?x=1": "https://hooks.example.com/?x=1",
    "https://hooks.example.com/a#part": "https://hooks.example.com/a",
    "https://hooks.example.com/a@b:c": "https://hooks.example.com/a@b:c",
    "https://hooks.example.com/ü?q=☃": "https://hooks.example.com/%C3%BC?q=%E2%98%83",
    "https://Bücher.example/": "https://xn--bcher-kva.example/",
    "https://例え.テスト/": "https://xn--r8jz45g.xn--zckzah/",
    "https://hooks。example。com/": "https://hooks.example.com/",
    "https://xn--bcher-kva.example/": "https://xn--bcher-kva.example/",
    "https://my_app.example.com/": "https://my_app.example.com/",
    "https://1.example.com/": "https://1.example.com/",
    "https://localhost.example.com/": "https://localhost.example.com/",
    "https://hooks.example.com./a": "https://hooks.example.com/a",
    f"https://{PUBLIC}/": f"https://{PUBLIC}/",
    f"https://[{PUBLIC_6.upper()}]:8443/": f"https://[{PUBLIC_6}]:8443/",
    "https://[2606:4700:0:0::1111]": "https://[2606:4700::1111]/",
    "https://h.example.com/" + "x" * 1978: "https://h.example.com/" + "x" * 1978,
}

REFUSED = {
    # scheme
    "http://hooks.example.com/": "not https",
    "ftp://hooks.example.com/": "does not begin with https://",
    "file:///etc/passwd": "does not begin with https://",
    "gopher://hooks.example.com/": "does not begin with https://",
    "javascript:alert(1)": "does not begin with https://",
    "//hooks.example.com/": "does not begin with https://",
    "hooks.example.com": "does not begin with https://",
    "https:hooks.example.com": "does not begin with https://",
    "https:/hooks.example.com": "does not begin with https://",
    "": "does not begin with https://",
    # no host
    "https://": "no proper host",
    "https:///path": "no proper host",
    "https://:443/": "no proper host",
    "https://?x": "no proper host",
    # ports
    "https://hooks.example.com:8080/": "port 8080 is not permitted",
    "https://hooks.example.com:22/": "port 22 is not permitted",
    "https://hooks.example.com:6379/": "port 6379 is not permitted",
    "https://hooks.example.com:0/": "'0' is not a port",
    "https://hooks.example.com:65536/": "'65536' is not a port",
    "https://hooks.example.com:0443/": "'0443' is not a port",
    "https://hooks.example.com:+443/": r"'\+443' is not a port",
    f"https://hooks.example.com:{wide('443')}/": "is not a port",
    "https://hooks.example.com:/": "'' is not a port",
    "https://hooks.example.com:443:443/": "'443:443' is not a port",
    # user information
    "https://me@hooks.example.com/": "user name or password",
    "https://me:secret@hooks.example.com/": "user name or password",
    "https://hooks.example.com@127.0.0.1/": "user name or password",
    "https://@hooks.example.com/": "user name or password",
    # characters that parsers differ about
    "https://hooks.example.com\\@127.0.0.1/": "backslash",
    "https:\\\\hooks.example.com/": "backslash",
    "https://hooks.example.com/a\\b": "backslash",
    "https://hooks.example.com/\r\nX-Evil: 1": r"U\+000D",
    "https://hooks.example.com/\n": r"U\+000A",
    "https://hooks.example.com/\t": r"U\+0009",
    "https://hooks.example.com/\0": r"U\+0000",
    "https://hooks.example.com/\x7f": r"U\+007F",
    "https://hooks.example.com/\x85": r"U\+0085",
    "https://hooks.example.com/a b": r"U\+0020",
    " https://hooks.example.com/": r"U\+0020",
    "https://hooks.example.com/ ": r"U\+0020",
    "https://hooks.example.com/\u2028": r"U\+2028",
    "https://hooks.example.com/\u202e": r"U\+202E",
    "https://hooks\u200b.example.com/": r"U\+200B",
    "https://hooks\u00ad.example.com/": r"U\+00AD",
    "https://hooks.example.com/\ud800": r"U\+D800",
    # hosts that are no names
    "https://hooks.example.com../": "not a host name",
    "https://127.0.0.1./": "not an address in its plain form",
    "https://.example.com/": "not a host name",
    "https://hooks..example.com/": "not a host name",
    "https://-hooks.example.com/": "not a host name",
    "https://hooks-.example.com/": "not a host name",
    f"https://{'a' * 64}.example.com/": "not a host name",
    f"https://{'a.' * 130}example.com/": "not a host name",
    "https://hooks!.example.com/": "not a host name",
    "https://*.example.com/": "not a host name",
    "https://hooks.example.com,127.0.0.1/": "plain form",
    "https://hooks.example.com&.127.0.0.1/": "plain form",
    "https://%31%32%37.0.0.1/": "percent sign",
    "https://hooks.example.com%2f/": "percent sign",
    "https://hooks.example.com%00.example.org/": "percent sign",
    f"https://a{wide('/')}b.example.com/": "not a host name",
    f"https://a{wide('@')}b.example.com/": "not a host name",
    f"https://a{wide(':')}b.example.com/": "not a host name",
    "https://℀.example.com/": "not a host name",
    # nearby names
    "https://localhost/": "not the full name of a public host",
    "https://LOCALHOST/": "not the full name of a public host",
    f"https://{wide('localhost')}/": "not the full name of a public host",
    "https://hooks/": "not the full name of a public host",
    "https://app.localhost/": "not the full name of a public host",
    "https://printer.local/": "not the full name of a public host",
    "https://metadata.google.internal/": "not the full name of a public host",
    "https://router.home.arpa/": "not the full name of a public host",
    "https://wiki.corp/": "not the full name of a public host",
    # addresses in odd forms
    "https://2130706433/": "plain form",
    "https://0x7f000001/": "plain form",
    "https://017700000001/": "plain form",
    "https://127.1/": "plain form",
    "https://127.0.1/": "plain form",
    "https://0x7f.1/": "plain form",
    "https://0x7f.0.0.0x1/": "plain form",
    "https://0177.0.0.1/": "plain form",
    "https://127.0.0.01/": "plain form",
    "https://127.0.0.1.5/": "plain form",
    "https://256.256.256.256/": "plain form",
    "https://0/": "plain form",
    "https://0x/": "plain form",
    "https://1.1.1.0x1/": "plain form",
    f"https://{wide('127')}.0.0.1/": "plain form",
    f"https://{wide('127.0.0.1')}/": "plain form",
    f"https://{wide('1.1.1.1')}/": "plain form",
    f"https://{wide('2130706433')}/": "plain form",
    "https://①②⑦.⓪.⓪.①/": "plain form",
    "https://127。0。0。1/": "plain form",
    "https://١٢٧.0.0.1/": "not a host name",
    "https://[::1/": "no proper host",
    "https://::1/": "no proper host",
    "https://[::1]x/": "no proper host",
    "https://[127.0.0.1]/": "not an IPv6 address",
    "https://[v1.x]/": "not an IPv6 address",
    "https://[]/": "not an IPv6 address",
    "https://[fe80::1%25eth0]/": "percent sign",
    "https://[2606:4700::1111%eth0]/": "percent sign",
    # length
    "https://h.example.com/" + "x" * 1979: "longer than 2000",
    "https://h.example.com/" + "ü" * 1000: "longer than 2000",
}


@pytest.mark.parametrize(("url", "normal"), ACCEPTED.items())
def test_urls_of_public_hosts_are_accepted_in_one_form(url: str, normal: str) -> None:
    assert check_url(url, NOBODY) == normal
    assert check_url(normal, NOBODY) == normal


@pytest.mark.parametrize(("url", "reason"), REFUSED.items())
def test_other_urls_are_refused_with_a_reason(url: str, reason: str) -> None:
    with pytest.raises(Refused, match=f"^callback URL refused: .*(?:{reason}).*accepted are https"):
        check_url(url, NOBODY)


@pytest.mark.parametrize("address", PRIVATE.values(), ids=PRIVATE)
def test_urls_of_private_addresses_are_refused(address: str) -> None:
    host = f"[{address}]" if ":" in address else address
    with pytest.raises(Refused, match="is not a public address"):
        check_url(f"https://{host}/", NOBODY)


def test_a_refusal_does_not_repeat_the_secret_in_a_url() -> None:
    with pytest.raises(Refused) as raised:
        check_url("http://hooks.example.com/hook?token=secret", NOBODY)
    assert "secret" not in str(raised.value)


# ------------------------------------------------------------------ what is allowed though private

ALLOW = "receiver, Hooks.Internal:8080, 10.1.0.0/16, 127.0.0.1:9000, [::1]:9000, fd00::/8, fe80::7"


@pytest.mark.parametrize(
    "url",
    [
        "http://receiver/",
        "http://receiver:12345/x",
        "https://receiver/",
        "http://hooks.internal:8080/",
        "https://hooks.internal:8080/",
        "http://10.1.2.3/",
        "https://10.1.255.255:9/",
        "http://127.0.0.1:9000/",
        "http://[::1]:9000/",
        "http://[fd12:3456::1]:81/",
        "https://[fe80::7]/",
        "https://elsewhere.example.com/",
    ],
)
def test_what_is_allowed_is_accepted(url: str) -> None:
    assert check_url(url, parse_allowlist(ALLOW)) == url


@pytest.mark.parametrize(
    "url",
    [
        "http://receiver.example.com/",
        "http://x.receiver/",
        "https://receivers/",
        "http://hooks.internal/",
        "https://hooks.internal:8081/",
        "https://hooks.internal/",
        "http://10.2.0.1/",
        "http://127.0.0.1/",
        "https://127.0.0.1:9001/",
        "https://127.0.0.2:9000/",
        "http://127.1:9000/",
        "http://[::ffff:10.1.2.3]/",
        "https://[::1]/",
        "https://[fe80::8]/",
        "http://me@receiver/",
        "http://receiver../",
        "http://elsewhere.example.com/",
        "ftp://receiver/",
    ],
)
def test_nothing_beside_what_is_allowed_is_accepted(url: str) -> None:
    with pytest.raises(Refused, match="WEBHOOK_ALLOW"):
        check_url(url, parse_allowlist(ALLOW))


KUBERNETES = "http://receiver.ns.svc.cluster.local"


def test_a_name_may_end_in_a_dot_where_it_is_listed_and_where_it_is_used() -> None:
    for listed in ("receiver.ns.svc.cluster.local", "receiver.ns.svc.cluster.local.:80"):
        for url in (f"{KUBERNETES}/x", f"{KUBERNETES}./x"):
            assert check_url(url, parse_allowlist(listed)) == f"{KUBERNETES}/x"


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("http://receiver/x", "receiver"),
        (f"{KUBERNETES}.:8000/x", "receiver.ns.svc.cluster.local"),
        ("http://receiver.example.com/x", "receiver.example.com"),
        ("https://receiver.example.com:8000/x", "receiver.example.com"),
    ],
)
def test_who_has_listed_a_network_is_told_to_list_the_name(url: str, name: str) -> None:
    """A URL is accepted by its text: where its name points to is not known then."""
    hint = f"WEBHOOK_ALLOW has networks, but not this name: list {name} there, too"
    with pytest.raises(NotConfigured, match=hint):
        check_url(url, parse_allowlist("10.0.0.0/8, other"))
    with pytest.raises(NotConfigured) as raised:
        check_url(url, parse_allowlist("other"))
    assert "has networks" not in str(raised.value)


@pytest.mark.parametrize("text", ["", " ", ",", " , "])
def test_nothing_is_allowed_by_nothing(text: str) -> None:
    assert parse_allowlist(text) == NOBODY


@pytest.mark.parametrize(
    "entry",
    [
        *("http://receiver", "receiver/path", "*.internal", "*", "re ceiver", "receiver..", ".x"),
        *("receiver:", "receiver:0", "receiver:65536", "receiver:http", "me@receiver", ":80"),
        *("10.0.0.1/8", "10.0.0.0/33", "10.0.0.0/8:80", "10/8", "127.1", "0x7f.0.0.1", "300.1.1.1"),
        *("[::1", "::1]", "[::1]:x", "fe80::1%eth0", "::g", "fd00::/8/8", wide("1.1.1.1")),
    ],
)
def test_a_wrong_entry_is_named(entry: str) -> None:
    with pytest.raises(ValueError, match="is not a host, host:port, address or CIDR") as raised:
        parse_allowlist(f"receiver, {entry}")
    assert str(raised.value).startswith(repr(entry))


# ------------------------------------------------------------------ connections


class Internet:
    """Names and addresses, as a test says; everything is on this machine."""

    def __init__(self) -> None:
        self.here = {PUBLIC}  # connections to these arrive at 127.0.0.1
        self.port = 0  # and at this port
        self.names: dict[str, list[list[str]]] = {}
        self.looked_up: list[str] = []
        self.connected: list[tuple[str, int]] = []

    def name(self, host: str, *answers: list[str]) -> None:
        """The addresses of a host: at the first look-up, at the second, and so on."""
        self.names[host] = list(answers)

    def resolve(self, host: str, _port: int) -> list[str]:
        self.looked_up.append(host)
        answers = self.names[host]
        return answers.pop(0) if len(answers) > 1 else answers[0]

    def connect(self, where: Any) -> socket.socket:
        """A socket that is connected already, which libcurl is told of any."""
        self.connected.append(where.addr[:2])
        sock = socket.socket(where.family, where.socktype)
        if where.addr[0] in self.here:
            sock = socket.socket()
            where = where._replace(addr=("127.0.0.1", self.port))
        sock.connect(where.addr)  # refuses whatever is not on this machine
        return sock


@pytest.fixture
def internet(monkeypatch: pytest.MonkeyPatch) -> Internet:
    internet = Internet()
    monkeypatch.setattr(exchange, "open_socket", internet.connect)
    connected = lambda *_: pycurl.SOCKOPT_ALREADY_CONNECTED  # noqa: E731
    monkeypatch.setitem(exchange.OPTIONS, pycurl.SOCKOPTFUNCTION, connected)
    return internet


@contextlib.contextmanager
def sender(internet: Internet, allow: str = "", seconds: float = 20) -> Iterator[Sender]:
    sender = Sender(parse_allowlist(allow), seconds, verify=AUTHORITY, resolver=internet.resolve)
    with contextlib.closing(sender):
        yield sender


def post(sender: Sender, url: str) -> Response:
    return sender.post(url, b'{"type": "video.completed"}', {"webhook-id": "evt_1"})


def test_a_public_receiver_gets_the_event(internet: Internet) -> None:
    """By its name in every place that matters, at the address that was checked."""
    internet.name("hooks.example.com", [PUBLIC])
    with Peer(answering(answer(b"thanks")), tls=True) as peer, sender(internet) as ours:
        internet.port = peer.port
        first, second = (post(ours, "https://hooks.example.com/hook?a=b") for _ in range(2))
    assert (first.status, first.body, second.body) == (200, b"thanks", b"thanks")
    assert peer.server_names == ["hooks.example.com"]
    assert internet.connected == [(PUBLIC, 443)]
    head, _, body = peer.requests[0].partition(b"\r\n\r\n")
    assert head.startswith(b"POST /hook?a=b HTTP/1.1\r\n")
    assert {b"Host: hooks.example.com", b"webhook-id: evt_1"} <= set(head.split(b"\r\n"))
    assert body == b'{"type": "video.completed"}'


def test_a_certificate_for_another_name_is_refused(internet: Internet) -> None:
    internet.name("elsewhere.example.com", [PUBLIC])
    with Peer(answering(answer()), tls=True) as peer, sender(internet) as ours:
        internet.port = peer.port
        with pytest.raises(ConnectFailed, match="not valid for 'elsewhere"):
            post(ours, "https://elsewhere.example.com/")
    assert peer.requests == []


def blocked(internet: Internet, *addresses: str, allow: str = "") -> str:
    """Assert that no connection is tried to a name with these addresses; the error's text."""
    internet.name("hooks.example.com", list(addresses))
    with sender(internet, allow) as ours, pytest.raises(AddressBlocked) as raised:
        post(ours, "https://hooks.example.com/")
    assert internet.connected == []
    return str(raised.value)


@pytest.mark.parametrize("address", PRIVATE.values(), ids=PRIVATE)
def test_a_name_of_a_private_address_is_not_connected_to(internet: Internet, address: str) -> None:
    text = blocked(internet, address)
    assert text.startswith(f"hooks.example.com is at {ipaddress.ip_address(address)}, ")


@pytest.mark.parametrize("address", PRIVATE.values(), ids=PRIVATE)
def test_a_private_address_among_public_ones_is_not_connected_to(
    internet: Internet, address: str
) -> None:
    """Not even where it comes first, or the others don't answer."""
    internet.name("hooks.example.com", [address, PUBLIC])
    with Peer(answering(answer(b"public")), tls=True) as peer, sender(internet) as ours:
        internet.port = peer.port
        assert post(ours, "https://hooks.example.com/").body == b"public"
        internet.port = 1
        internet.name("other.example.com", [PUBLIC, address])
        with pytest.raises(AddressBlocked, match=str(ipaddress.ip_address(address))):
            post(ours, "https://other.example.com/")
    assert set(internet.connected) == {(PUBLIC, 443)}


def test_the_address_that_was_checked_is_the_one_connected_to(internet: Internet) -> None:
    """A name that answers differently the second time is never asked a second time."""
    internet.name("hooks.example.com", [PUBLIC], ["127.0.0.1"])
    with Peer(answering(answer(b"checked")), tls=True) as peer, sender(internet) as ours:
        internet.port = peer.port
        assert post(ours, "https://hooks.example.com/").body == b"checked"
    assert internet.looked_up == ["hooks.example.com"]
    assert internet.connected == [(PUBLIC, 443)]


def test_every_new_connection_is_checked(internet: Internet) -> None:
    """A name may move to a private address after its first, honest answer."""
    closing = answer(b"bye", "Connection: close")
    internet.name("hooks.example.com", [PUBLIC], ["127.0.0.1"])
    with Peer(answering(closing), tls=True) as peer, sender(internet) as ours:
        internet.port = peer.port
        assert post(ours, "https://hooks.example.com/").body == b"bye"
        with pytest.raises(AddressBlocked, match=r"127\.0\.0\.1"):
            post(ours, "https://hooks.example.com/")
    assert len(peer.lines) == 1


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("https://10.0.0.1/", "10.0.0.1"),
        ("https://2130706433/", "2130706433"),
        ("http://hooks.example.com/", "https"),
        ("https://hooks.example.com:6379/", "6379"),
    ],
)
def test_urls_are_checked_again_before_sending(internet: Internet, url: str, address: str) -> None:
    """What was accepted under an earlier WEBHOOK_ALLOW, or found its way into the table."""
    with sender(internet) as ours, pytest.raises(AddressBlocked, match=address):
        post(ours, url)
    assert (internet.looked_up, internet.connected) == ([], [])


@pytest.mark.parametrize("location", ["http://127.0.0.1:{}/", "http://169.254.169.254/", "/again"])
def test_redirects_are_not_followed(internet: Internet, location: str) -> None:
    with Peer(answering(answer(b"stolen"))) as target:
        moved = answer(b"", f"Location: {location.format(target.port)}", status="307 Moved")
        with Peer(answering(moved)) as peer, sender(internet, "127.0.0.1") as ours:
            assert post(ours, peer.url).status == 307
    assert (len(peer.requests), target.lines) == (1, [])


def test_an_allowed_name_may_be_private_plain_and_on_any_port(internet: Internet) -> None:
    internet.name("receiver", ["127.0.0.1"])
    with Peer(answering(answer(b"ok"))) as peer, sender(internet, "receiver") as ours:
        assert post(ours, f"http://receiver:{peer.port}/").body == b"ok"


@pytest.mark.parametrize("allowed", ["hooks.example.com", "127.0.0.9"])
def test_what_is_allowed_on_one_port_is_not_on_others(internet: Internet, allowed: str) -> None:
    allow = f"{allowed}:8443"
    blocked(internet, "127.0.0.9", allow=allow)
    internet.here.add("127.0.0.9")
    with Peer(answering(answer(b"ok")), tls=True) as peer, sender(internet, allow) as ours:
        internet.port = peer.port
        assert post(ours, "https://hooks.example.com:8443/").body == b"ok"


def test_a_name_may_lead_into_an_allowed_network(internet: Internet) -> None:
    """As https and on the usual ports: the name itself is still a stranger's."""
    internet.name("hooks.example.com", ["127.0.0.9"])
    internet.here.add("127.0.0.9")
    with Peer(answering(answer(b"ok")), tls=True) as peer, sender(internet, "127.0.0.8/30") as ours:
        internet.port = peer.port
        assert post(ours, "https://hooks.example.com/").body == b"ok"
        for url in ("http://hooks.example.com/", "https://hooks.example.com:81/"):
            with pytest.raises(AddressBlocked):
                post(ours, url)
    assert internet.connected == [("127.0.0.9", 443)]


@pytest.mark.parametrize("address", ["10.0.0.1", "::1", "::ffff:127.0.0.1", "169.254.169.254"])
def test_an_allowed_network_opens_nothing_beside_itself(internet: Internet, address: str) -> None:
    blocked(internet, address, allow="127.0.0.0/8, other.example.com")


def test_nothing_of_the_environment_is_used(
    internet: Internet, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "netrc").write_text("default login me password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with Peer(answering(answer(b"proxied"))) as proxy, Peer(answering(answer(b"direct"))) as peer:
        for name in ("http_proxy", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        with sender(internet, "127.0.0.1") as ours:
            assert post(ours, peer.url).body == b"direct"
    assert proxy.lines == []
    assert b"authorization" not in peer.requests[0].lower()


def test_answers_are_kept_as_sent_up_to_64_kib(internet: Internet) -> None:
    reply = answer(b"\x1f\x8b" + b"x" * 100_000, "Content-Encoding: gzip")
    with Peer(answering(reply)) as peer, sender(internet, "127.0.0.1") as ours:
        got = post(ours, peer.url)
    assert (got.status, len(got.body)) == (200, 65536)
    assert got.body.startswith(b"\x1f\x8bx")
    assert b"Accept-Encoding: identity\r\n" in peer.requests[0]


def test_a_receiver_that_drags_on_is_cut(internet: Internet) -> None:
    def drips(line: Line) -> None:
        line.request()
        line.send(b"HTTP/1.1 200 OK\r\n")
        line.drip(b"X: y\r\n")

    with (
        Peer(drips) as peer,
        sender(internet, "127.0.0.1", seconds=0.5) as ours,
        pytest.raises(DeadlinePassed),
    ):
        post(ours, peer.url)


def test_a_closed_sender_keeps_no_connection(internet: Internet) -> None:
    ended = threading.Event()

    def script(line: Line) -> None:
        line.request()
        line.send(answer())
        line.hang()
        ended.set()

    with Peer(script) as peer:
        with sender(internet, "127.0.0.1") as ours:
            post(ours, peer.url)
            assert not ended.is_set()
        assert ended.wait(10)


def test_every_error_of_a_sender_is_a_transfer_error(internet: Internet) -> None:
    internet.name("hooks.example.com", [])
    with sender(internet) as ours, pytest.raises(TransferError, match="has no address"):
        post(ours, "https://hooks.example.com/")
