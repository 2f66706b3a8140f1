"""A stranger's environment: variables, files and settings that are somebody else's, and our own."""

import os
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pycurl
import pytest
from celery import Celery
from psycopg import pq
from sqlalchemy import create_engine, make_url, text

from reelwatch.app import celery as application
from reelwatch.app import embedded
from reelwatch.config import libpq, settings, trust
from reelwatch.config.accounts import Account
from reelwatch.jobs import tracking
from reelwatch.net import http, upstream
from reelwatch.net.http import Client, Request, TransferError
from reelwatch.net.outbound import Sender
from reelwatch.rules import webhook_secrets
from reelwatch.rules.answers import AnswerError, ErrorKind
from reelwatch.rules.callback_url import parse_allowlist
from reelwatch.rules.spelling import nearest, slips
from reelwatch.storage import db
from tests.commands import command_environment, done, run
from tests.environment import SECRET, set_variables
from tests.fleet import BEAT, START_SECONDS, WORKER
from tests.logs import Lines
from tests.peers import AUTHORITY, Peer, answer, answering
from tests.processes import eventually, free_port, process

ID = "veo3.1-fast:1770350082-trii1OXZc3"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


# -------------------------------------------------------- what Celery would read


def test_a_producers_celery_settings_do_not_reach_ours(
    redis_url: str, sqlite_url: str, tmp_path: Path
) -> None:
    """Its broker, its results, its configuration module: worker and beat do our work."""
    (tmp_path / "celeryconfig.py").write_text(
        "raise SystemExit('the configuration of somebody else was read')"
    )
    nobody = f"redis://127.0.0.1:{free_port()}/0"
    env = {
        "DATABASE_URL": sqlite_url,
        "BROKER_URL": redis_url,
        "PYTHONPATH": str(tmp_path),
        "CELERY_CONFIG_MODULE": "celeryconfig",
        "CELERY_LOADER": "celery.loaders.default:Loader",
        "CELERY_RESULT_BACKEND": nobody,
        "CELERY_BROKER_READ_URL": nobody,
        "CELERY_BROKER_WRITE_URL": nobody,
    }
    with (
        process([*WORKER, "-P", "threads", "-c", "4"], env, tmp_path) as worker,
        process(BEAT, {**env, "CELERY_BROKER_URL": nobody}, tmp_path),
        closing(Celery("shop", broker=redis_url)) as shop,
    ):
        worker.wait_for("ready", START_SECONDS)
        shop.send_task("reelwatch.track", args=[ID], queue="reelwatch")
        engine = create_engine(sqlite_url)

        def rows(query: str) -> Any:
            with engine.connect() as connection:
                return connection.execute(text(query)).first()

        eventually(lambda: rows("SELECT 1 FROM jobs"), 60, lambda: worker.output)
        ticked = "SELECT 1 FROM heartbeats WHERE name = 'tick'"
        eventually(lambda: rows(ticked), 60, lambda: worker.output)
        assert nobody.split("/")[2] not in worker.output


# ------------------------------------------------------------ without a database


@pytest.mark.parametrize("program", [WORKER, BEAT])
def test_a_process_without_a_database_says_so_and_ends(
    tmp_path: Path, redis_url: str, program: tuple[str, ...]
) -> None:
    with process(program, {"BROKER_URL": redis_url}, tmp_path) as child:
        assert child.wait(START_SECONDS) == 1
        said = child.output.splitlines()[-1]
        assert said.startswith("reelwatch: DATABASE_URL is not set: accepted: sqlite:///FILE")
        assert "Traceback" not in child.output
    assert list(tmp_path.iterdir()) == []


HAND_IN = """
from reelwatch import cancel, eta, recheck, track
from reelwatch.errors import SettingsError
for each in (track, cancel, recheck, eta):
    try:
        each("veo3:a")
    except SettingsError as error:
        print(error)
"""


def test_handing_in_without_a_database_says_so(tmp_path: Path) -> None:
    with process([sys.executable, "-c", HAND_IN], {}, tmp_path) as child:
        assert child.wait(60) == 0
        assert child.output.count("DATABASE_URL is not set: accepted: sqlite:///FILE") == 4
    assert list(tmp_path.iterdir()) == []


def test_handing_in_with_a_session_needs_no_database(
    pg: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DATABASE_URL")
    settings.current.cache_clear()
    with db.transaction(pg) as session:
        assert tracking.track(ID, session=session).created
        assert tracking.cancel(ID, session=session).state == "cancelled"


def test_only_migrating_makes_a_file(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever is in the wrong folder learns it, and leaves no empty database there."""
    with command_environment("", here, monkeypatch):
        for command in (
            ("list",), ("show", ID), ("track", ID), ("doctor",), ("accounts",), ("deliveries",),
            ("prune", "--older-than", "1d"), ("watch",),
        ):  # fmt: skip
            told = run(*command)
            assert told.exit_code == 1
            assert "there is no database at" in told.output
            assert str(here / "reelwatch.db") in told.output
    set_variables(monkeypatch, DATABASE_URL="sqlite:///x.db")
    with pytest.raises(Exception, match=r"there is no database at .*x\.db"):
        tracking.track(ID)
    assert list(here.iterdir()) == []


# ----------------------------------------------------------------------- files


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o777])
def test_an_sqlite_database_is_its_owners_alone(
    here: Path, monkeypatch: pytest.MonkeyPatch, umask: int
) -> None:
    before = os.umask(umask)
    try:
        with command_environment("sqlite:///x.db", here, monkeypatch):
            embedded.keep_secret(here / "x.db")
            done("migrate")
            with db.transaction("sqlite:///x.db") as session:
                session.execute(text("DELETE FROM jobs"))
                modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in here.iterdir()}
    finally:
        os.umask(before)
        db.dispose()
    assert modes == dict.fromkeys(("x.db", "x.db-wal", "x.db-shm", "x.db.secret"), 0o600)


def test_doctor_warns_of_files_that_others_may_read(
    sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And leaves them as they are: somebody may want that."""
    file = Path(sqlite_url.removeprefix("sqlite:///"))
    file.chmod(0o640)
    with command_environment(sqlite_url, tmp_path, monkeypatch):
        told = run("doctor").output
    assert "reelwatch.db is open to others (640)" in told
    assert stat.S_IMODE(file.stat().st_mode) == 0o640


def test_a_secret_needs_no_hard_links(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some file systems have none."""

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError("no links here")

    for name in ("link", "symlink", "rename", "replace"):
        monkeypatch.setattr(os, name, refuse)
    embedded.keep_secret(here / "x.db")
    assert len(webhook_secrets.parse_secrets((here / "x.db.secret").read_text())) == 1


def test_starts_at_once_agree_on_one_secret(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever comes second waits until the first has written."""
    monkeypatch.setenv("DATABASE_URL", "sqlite:///x.db")
    start = threading.Barrier(8)
    read: list[tuple[str, ...]] = []

    def begin() -> None:
        start.wait(30)
        embedded.keep_secret(here / "x.db")
        read.append(settings.load().secrets)

    threads = [threading.Thread(target=begin) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(read) == 8
    assert len(set(read)) == 1
    assert len(read[0]) == 1


def test_a_secret_that_was_never_written_is_named(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "SECRET_SECONDS", 0.05)
    (here / "x.db.secret").touch()
    with command_environment("sqlite:///x.db", here, monkeypatch):
        monkeypatch.delenv("WEBHOOK_SECRET")
        assert "x.db.secret (kept by `up`): it is empty, delete it" in run("up").stderr


# ------------------------------------------------------- what libpq would read


FOREIGN_PG = {
    "PGOPTIONS": "-c search_path=shop -c default_transaction_read_only=on",
    "PGSSLMODE": "verify-full",
    "PGUSER": "shop",
    "PGPASSWORD": "password-of-the-shop",
    "PGHOST": "127.0.0.9",
    "PGHOSTADDR": "127.0.0.9",
    "PGPORT": "9",
    "PGDATABASE": "shop",
    "PGAPPNAME": "shop",
    "PGTZ": "Asia/Tokyo",
    "PGCLIENTENCODING": "LATIN1",
    "PGTARGETSESSIONATTRS": "read-only",
    "PGCONNECT_TIMEOUT": "nonsense",
}


def test_a_producers_libpq_variables_do_not_reach_our_connections(
    pg: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in FOREIGN_PG.items():
        monkeypatch.setenv(name, value)
    assert tracking.track(ID).created
    with db.reading(pg) as session:
        for setting, expected in {
            "search_path": '"$user", public', "default_transaction_read_only": "off",
            "client_encoding": "UTF8",
        }.items():  # fmt: skip
            assert session.execute(text(f"SHOW {setting}")).scalar_one() == expected
        driver: Any = session.connection().connection.driver_connection
        assert driver.info.user == make_url(pg).username
        assert driver.info.password == (make_url(pg).password or "")
    told = run("doctor").output
    assert "PGAPPNAME, PGCLIENTENCODING, PGCONNECT_TIMEOUT" in told.replace("\n", " ")
    assert "password-of-the-shop" not in told


def test_no_variable_of_the_installed_libpq_is_heeded(
    pg: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Each has a value that no connection could be made with, or that hides our tables."""
    options = {each.envvar.decode() for each in pq.Conninfo.get_defaults() if each.envvar}
    for name in {*options, "PGTZ", "PGDATESTYLE", "PGGEQO", "PGSYSCONFDIR", "PGLOCALEDIR"}:
        monkeypatch.setenv(name, "nonsense")
    monkeypatch.setenv("PGREQUIRESSL", "1")
    (tmp_path / "services").write_text("[shop]\noptions=-c search_path=shop\nuser=shop\n")
    monkeypatch.setenv("PGSERVICE", "shop")
    monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "services"))
    db.dispose()
    assert tracking.track(ID).created
    with db.reading(pg) as session:
        found = session.execute(text("SHOW search_path")).scalar_one()
        driver: Any = session.connection().connection.driver_connection
    assert (found, driver.info.user) == ('"$user", public', make_url(pg).username)
    heard = "import os; print(os.environ['PGSERVICE'], os.environ['PGTZ'])"
    child = subprocess.run([sys.executable, "-c", heard], capture_output=True, check=True)
    assert child.stdout == b"shop nonsense\n"  # what else this process does has it still
    told = run("doctor").stdout
    assert "PGREQUIREAUTH" in told
    assert "PGTZ" in told
    assert "✓ database" in told


def test_a_url_can_name_a_service(pg: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "services").write_text("[ours]\noptions=-c search_path=ours\n")
    monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "services"))
    made = db.engine(f"{pg}{'&' if '?' in pg else '?'}service=ours")
    with closing(made.raw_connection()) as connection:
        found = connection.cursor().execute("SHOW search_path").fetchone()
    made.dispose()
    assert found == ("ours",)


def test_what_the_url_says_is_not_touched() -> None:
    given = {"host": "h", "sslmode": "require"}
    got = libpq.without_environment(given, {"PGSSLMODE": "disable", "PGHOST": "x", "PGUSER": "y"})
    assert {name: got[name] for name in given} == given
    assert got["user"] not in ("", "y")
    assert libpq.without_environment(given, {}) == given
    assert libpq.ignored(given, {"PGSSLMODE": "disable", "PGPORT": "1", "PGX": "2"}) == ["PGPORT"]


# ---------------------------------------------------------- private authorities


SUBJECT_HASH = "8a735791"  # of the authority's name: `openssl x509 -noout -subject_hash`


@pytest.fixture
def private() -> Iterator[Peer]:
    """A server whose certificate is a private authority's."""
    with Peer(answering(answer(b"{}", "Content-Type: application/json")), tls=True) as peer:
        yield peer


def asked(peer: Peer) -> Any:
    upstream.client_for.cache_clear()
    account = Account("default", f"https://127.0.0.1:{peer.port}", "sk-test", 5.0)
    return upstream.poll(account, ID, datetime.now(UTC))


def posted(peer: Peer) -> int:
    with closing(Sender(parse_allowlist("127.0.0.1"))) as sender:
        return sender.post(f"https://127.0.0.1:{peer.port}/hook", b"{}", {}).status


@pytest.mark.parametrize("name", ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
def test_a_private_authority_is_trusted_for_upstream_and_receivers(
    private: Peer, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    refused = asked(private).answer
    assert isinstance(refused, AnswerError)
    assert refused.kind is ErrorKind.CONNECTION
    assert "certificate" in refused.message
    with pytest.raises(TransferError, match="certificate"):
        posted(private)
    monkeypatch.setenv(name, AUTHORITY)
    assert asked(private).http_status == 200
    assert posted(private) == 200


def test_a_folder_of_authorities_is_trusted(
    private: Peer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """By the names that OpenSSL looks them up by; of several folders each."""
    (tmp_path / f"{SUBJECT_HASH}.0").write_text(Path(AUTHORITY).read_text())
    (tmp_path / "other").mkdir()
    monkeypatch.setenv("SSL_CERT_DIR", f"{tmp_path / 'other'}{os.pathsep}{tmp_path}")
    assert posted(private) == 200


def test_the_usual_authorities_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """A private bundle lacks those that upstream and public receivers have."""
    usual = Client().options[pycurl.CAINFO]
    assert Path(usual).read_text().count("BEGIN CERTIFICATE") > 50
    monkeypatch.setenv("SSL_CERT_FILE", AUTHORITY)
    both = Path(Client().options[pycurl.CAINFO]).read_bytes()
    assert Path(usual).read_bytes() in both
    assert Path(AUTHORITY).read_bytes() in both


def test_a_connection_has_no_authorities_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are a file that is read once: what is handed over as bytes is copied and read again."""
    monkeypatch.setenv("SSL_CERT_FILE", AUTHORITY)
    clients = [Client(), Client(), Client(proxies={"all": "http://127.0.0.1:1"})]
    given = [{type(value) for value in client.options.values()} for client in clients]
    assert given == [{int, str}] * 3
    assert len({client.options[pycurl.CAINFO] for client in clients}) == 1


def test_a_forked_process_trusts_them_too(private: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", AUTHORITY)
    request = Request(f"https://127.0.0.1:{private.port}/")
    with closing(Client()) as client:
        child = os.fork()
        if child == 0:
            with suppress(BaseException):  # it must not go on with its parent's tests
                os._exit(0 if client.ask(request).status == 200 else 1)
            os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert client.ask(request).status == 200


@pytest.mark.parametrize("works", [False, True], ids=["refused", "not to be read again"])
def test_they_are_trusted_where_the_system_has_no_file_for_them(
    private: Peer, monkeypatch: pytest.MonkeyPatch, works: bool
) -> None:
    def no_file(_: str) -> int:
        if works:
            return os.open(os.devnull, os.O_RDWR)
        raise PermissionError

    http._in_memory.cache_clear()
    monkeypatch.setattr(os, "memfd_create", no_file)
    monkeypatch.setenv("SSL_CERT_FILE", AUTHORITY)
    try:
        assert isinstance(Client().options[pycurl.CAINFO_BLOB], bytes)
        assert posted(private) == 200
    finally:
        http._in_memory.cache_clear()


@pytest.mark.parametrize("name", trust.VARIABLES)
@pytest.mark.parametrize(
    ("content", "reason"), [(None, "No such file"), ("nothing of the kind", "no certificate")]
)
def test_a_bundle_that_is_none_stops_the_start(
    here: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: str | None, reason: str
) -> None:
    if content is not None:
        (here / "ca.pem").write_text(content)
    with command_environment("sqlite:///x.db", here, monkeypatch):
        done("migrate")
        monkeypatch.setenv(name, "ca.pem")
        told = run("up")
        assert told.exit_code == 2
        assert told.stderr.startswith(f"reelwatch: {name}='ca.pem': {reason}")
        assert told.stderr.count("\n") == 1
        assert f"settings: {name}='ca.pem': {reason}" in run("doctor").output
        settings.current.cache_clear()
        with pytest.raises(SystemExit, match=rf"reelwatch: {name}='ca.pem': {reason}"):
            application._before_work()
        assert tracking.track(ID).created  # handing in needs nobody's certificates


# ------------------------------------------------------------- nearly right names


@pytest.mark.parametrize(
    ("names", "meant"),
    [
        ({"REELWATCH_POLL_MINN"}, "REELWATCH_POLL_MIN"),
        ({"REELWATCH_POLLMIN"}, "REELWATCH_POLL_MIN"),
        ({"reelwatch_deadline"}, "REELWATCH_DEADLINE"),
        ({"REELWATCH_WEBHOOK_SECRET"}, "WEBHOOK_SECRET"),
        ({"REELWATCH_DATABASE_URL"}, "DATABASE_URL"),
        ({"QUICKROUTER_KEY"}, "QUICKROUTER_API_KEY"),
        ({"QUICKROUTER_BASEURL"}, "QUICKROUTER_BASE_URL"),
        ({"WEBHOOK_SECRETS"}, "WEBHOOK_SECRET"),
        ({"DATABASE_URI"}, "DATABASE_URL"),
        ({"REELWATCH_XYZZY"}, None),
        # Somebody else's, or ours and beside its twin; and what Kubernetes sets for a service.
        ({"WEBHOOK_TOKEN"}, ...),
        ({"DATABASE_URI", "DATABASE_URL"}, ...),
        ({"WEBHOOK_SECRET", "REELWATCH_POLL_MIN"}, ...),
        ({"REELWATCH_SERVICE_HOST", "REELWATCH_SERVICE_PORT", "REELWATCH_PORT",
          "REELWATCH_WEB_SERVICE_PORT_HTTP", "REELWATCH_PORT_8600_TCP_ADDR"}, ...),
    ],
)  # fmt: skip
def test_a_name_that_is_nearly_right(names: set[str], meant: Any) -> None:
    found = list(slips(names, settings.NAMES))
    assert [slip.meant for slip in found] == ([] if meant is ... else [meant])


def test_every_known_name_is_its_own_nearest() -> None:
    for name in settings.NAMES:
        assert nearest(name, settings.NAMES) == name


def test_an_accounts_key_is_a_known_name(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "a.toml").write_text('[accounts.studio]\napi_key_env = "REELWATCH_STUDIO_KEY"')
    set_variables(monkeypatch, REELWATCH_ACCOUNTS_FILE="a.toml", REELWATCH_STUDIO_KEY="sk-1")
    assert list(settings.load().slips()) == []


@pytest.mark.usefixtures("lite")
def test_unknown_names_are_told_and_stop_nothing(
    monkeypatch: pytest.MonkeyPatch, logged: Lines
) -> None:
    application._tell.cache_clear()
    set_variables(monkeypatch, REELWATCH_POLL_MINN="1s")
    hint = "REELWATCH_POLL_MINN is set and nothing reads it: is REELWATCH_POLL_MIN meant?"
    for _ in range(2):
        application._before_work()
    assert [line["hint"] for line in logged.named("unknown_variable")] == [hint]
    assert f"! environment: {hint}" in run("doctor").output


@pytest.mark.parametrize(
    ("typed", "meant"), [("trak", "track"), ("migarte", "migrate"), ("lst", "list"), ("qqq", None)]
)
def test_a_command_that_is_nearly_right(typed: str, meant: str | None) -> None:
    told = run(typed)
    assert told.exit_code == 2
    assert f"No such command {typed!r}." in told.stderr
    assert ("Did you mean" in told.stderr) is (meant is not None)
    assert meant is None or f"Did you mean {meant!r}?" in told.stderr


def test_an_option_that_is_nearly_right() -> None:
    told = run("track", "--webhok-url", "x").stderr
    assert "Did you mean" in told
    assert "--webhook-url" in told


# -------------------------------------------------------------- odd passwords


@pytest.mark.parametrize("password", ["Zq7%40vJ4qqz", "Zq7%2FvJ4qqz%23x"])
def test_a_worker_prints_no_password(tmp_path: Path, sqlite_url: str, password: str) -> None:
    """Neither in its banner nor while its broker is away, at debug too."""
    env = {
        "DATABASE_URL": sqlite_url,
        "BROKER_URL": f"redis://:{password}@127.0.0.1:{free_port()}/0",
        "WEBHOOK_SECRET": SECRET,
        "LOG_FORMAT": "console",
        "LOG_LEVEL": "debug",
    }
    with process([*WORKER, "-P", "threads", "-c", "2"], env, tmp_path) as worker:
        worker.wait_for("Cannot connect to redis://", START_SECONDS)
        said = worker.output
    assert not any(part in said for part in ("Zq7", "vJ4qqz", SECRET))


@pytest.mark.parametrize("variable", ["BROKER_URL", "DATABASE_URL"])
def test_a_worker_refuses_a_url_that_is_not_quoted(
    tmp_path: Path, sqlite_url: str, variable: str
) -> None:
    kind = "redis" if variable == "BROKER_URL" else "postgresql"
    env = {"DATABASE_URL": sqlite_url, "BROKER_URL": "redis://h"}
    env[variable] = f"{kind}://u:Zq7/vJ4qqz@127.0.0.1/0"
    with process(WORKER, env, tmp_path) as worker:
        assert worker.wait(START_SECONDS) == 1
        assert worker.output.startswith(f"reelwatch: {variable}=(not shown): accepted: ")
        assert worker.output.count("\n") == 1
        assert "@ as %40" in worker.output
        assert not any(part in worker.output for part in ("Zq7", "vJ4qqz"))
