"""Secrets: found in URLs and the environment, cut out of all that is printed."""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import HealthCheck, example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from kombu import Connection
from kombu.utils.url import parse_url as kombu_parse
from sqlalchemy.engine import make_url

from reelwatch.app import embedded
from reelwatch.config import secrecy
from reelwatch.config.servers import check_broker_url, normal_database_url
from reelwatch.rules import urls
from reelwatch.rules.redaction import HIDDEN, MASK, Redactor, secrets_of_url, shown_url
from tests.commands import command_environment, run
from tests.environment import SECRET
from tests.peers import closed_port

ODD = "@/#?%:;&=+[]\\ \"'`~^|<>{}$!*(),.-_ß℀\n"
STATUSES = ("Zq7", "Xk9w", "vJ4qqz")  # so odd that nothing else has them
PASSWORDS = st.lists(
    st.one_of(st.sampled_from(STATUSES), st.sampled_from(ODD)), min_size=1, max_size=8
).map("".join)


# ------------------------------------------------------------------------ URLs


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://app:hunter22@db:5432/shop", "postgresql://app:***@db:5432/shop"),
        ("postgresql://app@db/shop", "postgresql://app@db/shop"),
        ("redis://:hunter22@h:6379/0", "redis://:***@h:6379/0"),
        ("amqp://h//", "amqp://h//"),
        ("sqlite:////var/lib/a@b:c.db", "sqlite:////var/lib/a@b:c.db"),
        ("postgresql://db/shop?user=app&password=hunter22&sslmode=require",
         "postgresql://db/shop?user=***&password=***&sslmode=require"),
        ("postgresql://db/shop?sslpassword=a&passfile=/b&options=-c&connect_timeout=3",
         "postgresql://db/shop?sslpassword=***&passfile=***&options=***&connect_timeout=3"),
        ("rediss://h?ssl_cert_reqs=required&ssl_password=x",
         "rediss://h?ssl_cert_reqs=required&ssl_password=***"),
        ("redis://:a/b@h", "redis://:***@h"),
    ],
)  # fmt: skip
def test_a_url_is_shown_without_what_may_be_secret(url: str, shown: str) -> None:
    assert shown_url(url) == shown


@pytest.mark.parametrize(
    ("url", "secrets"),
    [
        ("postgres://user:data%40base@h/d", {"data%40base", "data@base"}),
        ("amqp://user:rabbit@h//", {"rabbit"}),
        ("redis://h/0?password=red%2Dis+pw&db=1", {"red-is pw", "red-is+pw", "red%2Dis+pw"}),
        ("postgres://h/d?sslpassword=s3cret&passfile=/run/pw&user=u", {"s3cret", "/run/pw"}),
        ("redis://:one@h;redis://:two@h", {"one", "two"}),
        ("postgres://app:app@app/app", set()),
        ("postgres://u:shop@h/shop", set()),
        ("redis://:pa/ss@h", {"pa/ss", "pa", "ss"}),
        ("sqlite:///reelwatch.db", set()),
        ("nonsense", set()),
    ],
)
def test_the_secrets_of_a_url(url: str, secrets: set[str]) -> None:
    """A password that is also a name beside it would be cut out of every line with that name."""
    assert set(secrets_of_url(url)) == secrets


def quoted(password: str) -> str:
    return quote(password, safe="")


@given(PASSWORDS)
@example("p@ss/w#rd?%")
def test_a_quoted_password_is_read_alike_by_all(password: str) -> None:
    """By us, by SQLAlchemy and by kombu, whatever is in it."""
    text = quoted(password)
    assert urls.parse(f"redis://u:{text}@h:1/0").password == password
    database = normal_database_url(f"postgres://u:{text}@h:1/d?sslmode=require")
    assert (database.username, database.password, database.host) == ("u", password, "h")
    assert make_url(database.render_as_string(hide_password=False)) == database
    broker = kombu_parse(check_broker_url(f"redis://u:{text}@h:1/0"))
    read = (broker["userid"], broker["password"], broker["hostname"], broker["port"])
    assert read == ("u", password, "h", 1)


@given(PASSWORDS)
@example("p@ss")
@example("p/ss")
@example("p#ss")
@example("p?ss")
@example("p%ss")
@example("℀")
def test_what_is_accepted_is_read_alike_and_what_is_not_is_not_quoted(password: str) -> None:
    for scheme, check in (("postgres", normal_database_url), ("redis", check_broker_url)):
        url = f"{scheme}://u:{password}@h:1/0"
        refused = refusal(check, url)
        if refused:
            assert not any(status in refused for status in STATUSES)
            assert urls.QUOTING in refused
            continue
        assert not set(password) & set("@/#?;[]\n ")
        ours = urls.parse(url)
        theirs, kombus = make_url(url), kombu_parse(url)
        assert (theirs.password or None) == kombus["password"] == ours.password
        assert theirs.host == kombus["hostname"] == ours.host == "h"


def refusal(check: Callable[[str], object], url: str) -> str:
    try:
        check(url)
    except ValueError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    "url",
    [
        "redis://:Zq7:6379/0", "redis://Zq7:Zq7", "redis://:Zq7@h:99999", "redis://:Zq7@h:p",
        "redis://:Zq7@h/Xk9w", "redis://h/0?password=Zq7", "redis://h/0?Zq7=1", "amqp://h?a&Zq7=",
        "redis://:Zq7@h;Zq7@h", "redis://:Zq7@[::1", "redis://u:Zq7@ h", "redis://:Zq7@h\n",
    ],
)  # fmt: skip
def test_a_wrong_brokers_url_is_not_quoted(url: str) -> None:
    with pytest.raises(ValueError, match="redis://…") as caught:
        check_broker_url(url)
    assert not any(status in str(caught.value) for status in STATUSES)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("postgres://u:Zq7", "percent-encoded"),
        ("postgres://u:Zq7@h:0/d", "a port is a number from 1 to 65535"),
        ("postgres://u:Zq7@h/d?pasword=Xk9w", "is password meant?"),
        ("postgres://h/d?password=Zq7&Xk9w=1", "PostgreSQL's own URLs"),
        ("postgres://h/d?sslmod=require", "is sslmode meant?"),
        ("sqlite://Zq7/x.db", "sqlite:///FILE"),
        ("sqlite:///file:x.db?uri=true", "sqlite:///FILE"),
    ],
)
def test_a_wrong_databases_url_is_not_quoted(url: str, said: str) -> None:
    with pytest.raises(ValueError, match=r".+") as caught:
        normal_database_url(url)
    assert said in str(caught.value)
    assert not any(status in str(caught.value) for status in STATUSES)


@pytest.mark.parametrize(
    "url",
    [
        "postgres://u:p@h/d?pgbouncer=true", "postgres://u:p@h/d?prepare_threshold=0",
        "postgres://u:p@h/d?sslmode=verify-full&sslrootcert=/x&options=-c%20a%3Db",
        "postgres://u:p@one:1,two:2/d?target_session_attrs=read-write",
        "postgres:///d?host=/var/run/postgresql", "postgres://u@[::1]:5432/d",
        "postgresql+psycopg://h", "postgres://u:p:w@h/d?passfile=/x&user=v",
    ],
)  # fmt: skip
def test_a_right_databases_url_is_accepted(url: str) -> None:
    assert normal_database_url(url).drivername == "postgresql+psycopg"


@pytest.mark.parametrize(
    "url",
    [
        "redis://h", "redis://h:6379//", "redis://:p@h/15", "redis://u:p:w@h/0", "rediss://h/0",
        "rediss://h/0?ssl_cert_reqs=none", "amqp://u:p@h:5672/%2Fshop",
        "amqps://u:p@h//", "amqp://u:p@one;amqp://u:p@two", "amqp://h?heartbeat=10",
        "memory://localhost//", "redis://[::1]:6379/0",
    ],
)  # fmt: skip
def test_a_right_brokers_url_is_accepted(url: str) -> None:
    assert check_broker_url(url) == url
    with Connection(url) as connection:  # as Celery makes one
        assert connection.as_uri()


def test_parts_show_nothing_of_themselves() -> None:
    assert "Zq7" not in repr(urls.parse("redis://u:Zq7@h"))


# ---------------------------------------------------------------------- cutting


@given(st.text(min_size=6, max_size=30), st.text(max_size=20))
def test_a_secret_is_cut_out_in_whatever_form(secret: str, around: str) -> None:
    clean = Redactor([secret])
    url = f"x://u:{quote(secret, safe='', errors='replace')}@h"
    forms = (
        secret, repr(secret), repr(secret.encode("utf-8", "surrogatepass")),
        json.dumps({"a": secret}), json.dumps(secret, ensure_ascii=False),
        json.dumps(repr(secret)), url, quote_plus(secret, errors="replace"),
    )  # fmt: skip
    for written in forms:
        assert MASK in clean(f"{around}{written}{around}")
        assert secret not in clean(f"«{written}»") or secret in f"«{MASK}»"


def test_short_secrets_are_cut_out_of_urls_alone() -> None:
    """Elsewhere they are parts of other words."""
    clean = Redactor(["pw"])
    assert clean("redis://:pw@h and postgres://h/d?password=pw") == (
        f"redis://:{HIDDEN}@h and postgres://h/d?password={HIDDEN}"
    )
    assert clean("pwned") == "pwned"


def test_a_secret_within_another_goes_with_it() -> None:
    assert Redactor(["inner-secret", "an-inner-secret-too"])("an-inner-secret-too") == MASK


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_everything_secret_is_known(here: Path) -> None:
    """Keys, secrets, and passwords in URLs both as they stand there and as they are meant."""
    (here / "accounts.toml").write_text('[accounts.studio]\napi_key_env = "STUDIO_KEY"')
    environ = {
        "REELWATCH_ACCOUNTS_FILE": "accounts.toml", "STUDIO_KEY": "sk-studio",
        "QUICKROUTER_API_KEY": "sk-default", "WEBHOOK_SECRET": f"{SECRET} whsec_broken",
        "DATABASE_URL": "postgres://user:data%40base@h/d", "BROKER_URL": "amqp://user:rabbit@h//",
        "REDIS_URL": "redis://h/0?password=redis-pw", "HTTPS_PROXY": "http://u:proxypw@p:3128",
        "http_proxy": "http://u:lowerpw@p",
    }  # fmt: skip
    assert set(secrecy.known(environ)) == {
        "sk-studio", "sk-default", SECRET, SECRET.removeprefix("whsec_"), "whsec_broken", "broken",
        "data%40base", "data@base", "rabbit", "redis-pw", "proxypw", "lowerpw",
    }  # fmt: skip


@pytest.mark.parametrize(
    "content", [None, "[accounts", "accounts = 5", "[accounts]\nx = 1", "\x00"]
)
def test_what_can_not_be_read_is_no_error(here: Path, content: str | None) -> None:
    """What is printed then is an error about that very file."""
    if content is not None:
        (here / "accounts.toml").write_text(content)
    environ = {"REELWATCH_ACCOUNTS_FILE": "accounts.toml", "QUICKROUTER_API_KEY": "sk-default"}
    assert set(secrecy.known(environ)) == {"sk-default"}


def test_the_secret_that_up_keeps_is_known(here: Path) -> None:
    (here / "reelwatch.db.secret").write_text(SECRET + "\n")
    assert SECRET in set(secrecy.known({}))
    (here / "x y.db.secret").write_text(SECRET + "\n")
    assert SECRET in set(secrecy.known({"DATABASE_URL": "sqlite:///x%20y.db"}))
    assert set(secrecy.known({"DATABASE_URL": "postgres://h/reelwatch.db"})) == set()


def test_a_made_up_key_is_part_of_other_texts(here: Path) -> None:
    assert set(secrecy.known({"QUICKROUTER_API_KEY": "sandbox"})) == set()
    assert set(secrecy.known({"QUICKROUTER_API_KEY": "s" * 16})) == {"s" * 16}


def test_streams_are_cleaned_and_put_back(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("QUICKROUTER_API_KEY", "sk-hidden-1")
    before = sys.stdout, sys.stderr
    with secrecy.clean_output():
        print("key sk-hidden-1")
        print("key sk-hidden-1", file=sys.stderr)
        monkeypatch.setenv("WEBHOOK_SECRET", SECRET)
        secrecy.renew()
        print(SECRET)
        assert sys.stdout.isatty() is False
        assert sys.stdout.encoding == before[0].encoding
    assert (sys.stdout, sys.stderr) == before
    assert capsys.readouterr() == (f"key {MASK}\n{MASK}\n", f"key {MASK}\n")


# --------------------------------------------------------------------- commands


@pytest.fixture
def quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Commands in an empty folder; `up` ends after its greeting."""
    with command_environment("sqlite:///x.db", tmp_path, monkeypatch) as patch:
        patch.setattr(embedded, "run", lambda _url: 0)
        yield patch


COMMANDS = (
    ("up",), ("migrate",), ("doctor",), ("doctor", "--json"), ("track", "veo3:a"), ("accounts",),
    ("list",), ("show", "veo3:a"),
)  # fmt: skip


@hypothesis_settings(
    max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@given(password=PASSWORDS.filter(lambda text: any(status in text for status in STATUSES)))
@example(password="Zq7@Xk9w")
@example(password="Zq7/Xk9w")
@example(password="Zq7#vJ4qqz")
@example(password="Zq7%vJ4qqz")
def test_no_command_prints_any_part_of_a_password(quick: pytest.MonkeyPatch, password: str) -> None:
    """Quoted or not, before the host or behind the `?`: neither as port, as host, nor in a URL."""
    with closed_port() as port:
        for text in {password, quoted(password)}:
            for variable, url in (
                ("DATABASE_URL", f"postgresql://app:{text}@127.0.0.1:{port}/shop"),
                ("DATABASE_URL", f"postgresql://127.0.0.1:{port}/shop?user=app&password={text}"),
                ("BROKER_URL", f"memory://u:{text}@localhost//"),
            ):
                with quick.context() as patch:
                    patch.setenv(variable, url)
                    for command in COMMANDS:
                        told = run(*command).output
                        assert told
                        assert [status for status in STATUSES if status in told] == []


def test_wrong_usage_quotes_no_secret(quick: pytest.MonkeyPatch) -> None:
    """What was typed is quoted, and somebody may have typed that."""
    quick.setenv("QUICKROUTER_API_KEY", "sk-hidden-1")
    for typed in (["sk-hidden-1"], ["list", "--limit", "sk-hidden-1"], ["track", "--sk-hidden-1"]):
        told = run(*typed)
        assert told.exit_code == 2
        assert MASK in told.output
        assert "sk-hidden-1" not in told.output
