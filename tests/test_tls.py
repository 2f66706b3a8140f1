"""TLS to the broker: checked unless the URL says no, in any client's spelling."""

import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
from celery import Celery

from reelwatch.app.celery import configuration
from reelwatch.config import tls
from tests.environment import set_variables
from tests.servers import AUTHORITY, RedisServer, redis


@pytest.mark.parametrize("check", ["", "?ssl_cert_reqs=required", "?ssl_cert_reqs=CERT_REQUIRED"])
def test_a_certificate_that_nobody_vouches_for_is_refused(check: str) -> None:
    broker = tls.read(f"rediss://:secret@h:6380/0{check}")
    assert broker.url == "rediss://:secret@h:6380/0"
    assert broker.use_ssl == {"ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_check_hostname": True}
    assert not broker.unchecked


@pytest.mark.parametrize("word", ["none", "None", "CERT_NONE", "NONE"])
@pytest.mark.parametrize("scheme", ["rediss", "amqps"])
def test_whoever_wants_no_check_gets_none(scheme: str, word: str) -> None:
    assert tls.read(f"{scheme}://h/0?ssl_cert_reqs={word}").unchecked


def test_what_else_a_url_says() -> None:
    given = f"ssl_ca_certs={AUTHORITY}&ssl_check_hostname=false&ssl_cert_reqs=optional"
    broker = tls.read(f"rediss://h/0?heartbeat=5&{given}")
    assert broker.url == "rediss://h/0?heartbeat=5"
    assert broker.use_ssl == {
        "ssl_ca_certs": str(AUTHORITY),
        "ssl_check_hostname": False,
        "ssl_cert_reqs": ssl.CERT_OPTIONAL,
    }


def test_rabbitmqs_client_has_names_of_its_own() -> None:
    broker = tls.read(f"amqps://h//?ssl_ca_certs={AUTHORITY};amqps://i//")
    assert broker.url == "amqps://h//;amqps://i//"
    assert broker.use_ssl == {"cert_reqs": ssl.CERT_REQUIRED, "ca_certs": str(AUTHORITY)}


@pytest.mark.parametrize("url", ["redis://h/0", "amqp://h//", "memory://localhost//"])
def test_no_tls_where_none_is_named(url: str) -> None:
    assert tls.read(url) == tls.Broker(url, None)


@pytest.mark.parametrize(
    ("query", "accepted"),
    [
        ("ssl_cert_reqs=some", "ssl_cert_reqs: none, optional, required"),
        ("ssl_check_hostname=perhaps", "ssl_check_hostname: true"),
        ("ssl_ca_certs=/nowhere.pem", "ssl_ca_certs: a file that is there"),
        ("ssl_nope=1", "not ssl_nope"),
    ],
)
def test_a_wrong_word_is_refused_at_the_start(
    monkeypatch: pytest.MonkeyPatch, query: str, accepted: str
) -> None:
    set_variables(monkeypatch, BROKER_URL=f"rediss://:hidden@h/0?{query}")
    with pytest.raises(SystemExit, match=f"BROKER_URL=.*{accepted}") as caught:
        configuration()
    assert "hidden" not in str(caught.value)


# ------------------------------------------------------------- a real server


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with redis(tls=True) as running:
        yield running


def connects(server: RedisServer, query: str, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether an app like the workers' can publish there."""
    set_variables(monkeypatch, BROKER_URL=server.url + query, DATABASE_URL="sqlite:///x.db")
    with Celery("reelwatch", set_as_current=False) as app:
        app.add_defaults(configuration)
        try:
            with app.connection_for_write() as connection:
                connection.connect()
        except ssl.SSLCertVerificationError:
            return False
        except Exception as error:
            if "CERTIFICATE_VERIFY_FAILED" not in str(error):
                raise
            return False
    return True


@pytest.mark.parametrize("check", ["", "&ssl_cert_reqs=required"])
def test_a_server_that_nobody_vouches_for_is_refused(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch, check: str
) -> None:
    assert not connects(server, f"?ssl_check_hostname=true{check}", monkeypatch)


@pytest.mark.parametrize("word", ["none", "None", "CERT_NONE"])
def test_it_is_taken_where_the_url_says_so(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch, word: str
) -> None:
    assert connects(server, f"?ssl_cert_reqs={word}", monkeypatch)


def test_it_is_taken_where_its_authority_is_named(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """In the URL, or for the whole process."""
    assert connects(server, f"?ssl_ca_certs={AUTHORITY}", monkeypatch)
    monkeypatch.setenv("SSL_CERT_FILE", str(AUTHORITY))
    assert connects(server, "", monkeypatch)
    empty = tmp_path / "none.pem"
    empty.write_text("")
    monkeypatch.setenv("SSL_CERT_FILE", str(empty))
    assert not connects(server, "", monkeypatch)
