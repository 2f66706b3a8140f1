"""Settings: what each variable accepts, and what a wrong value says."""

import base64
import os
from pathlib import Path
from typing import Any

import pytest

from reelwatch.config import secrecy, settings
from reelwatch.config.accounts import Account
from reelwatch.config.planning import rules_of
from reelwatch.config.settings import Settings, load
from reelwatch.errors import SettingsError
from reelwatch.rules.durations import parse_duration
from tests.environment import SECRET

OLDER = "whsec_" + base64.b64encode(b"an old secret of the producer").decode()
HOUR = 3_600.0


@pytest.fixture
def beside_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """As commands in `up`'s folder have it."""
    monkeypatch.setenv("DATABASE_URL", "sqlite:///reelwatch.db")


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In a folder of its own: files are looked for in the current one."""
    monkeypatch.chdir(tmp_path)


def loaded(monkeypatch: pytest.MonkeyPatch, **variables: str) -> Settings:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return load()


# ------------------------------------------------------------------ good values


def test_nothing_needs_to_be_set() -> None:
    """The defaults of the documents."""
    got = load()
    assert got.database is None
    assert (got.broker, got.in_memory) == ("memory://localhost//", True)
    assert got.accounts == {
        "default": Account("default", "https://api.quickrouter.ai", None, 5.0, None)
    }
    assert (got.poll_min, got.poll_max) == (5, 60)
    assert (got.deadline, got.abandon_after) == (HOUR, 24 * HOUR)
    assert (got.not_found_after, got.result_grace) == (300, 300)
    assert got.secrets == ()
    assert got.webhook_url is None
    assert got.retry_schedule == (
        5, 60, 300, 1_800, 2 * HOUR, 5 * HOUR, 10 * HOUR, 14 * HOUR, 20 * HOUR, 24 * HOUR
    )  # fmt: skip
    assert got.webhook_timeout == 15
    assert (got.log_format, got.log_level) == (None, "info")


@pytest.mark.parametrize(
    ("name", "value", "attribute", "expected"),
    [
        ("DATABASE_URL", "sqlite:////var/lib/r.db", "database_url", "sqlite:////var/lib/r.db"),
        ("DATABASE_URL", "sqlite:////r.db?timeout=9&check_same_thread=no", "database_url", "sqlite:////r.db"),
        ("DATABASE_URL", "postgres://u:p@h/d", "database_url", "postgresql+psycopg://u:p@h/d"),
        ("DATABASE_URL", " POSTGRES://u:p@H/d\n", "database_url", "postgresql+psycopg://u:p@H/d"),
        ("DATABASE_URL", " SQLite:///r.db ", "database_url", "sqlite:///r.db"),
        ("DATABASE_URL", "postgresql://h/d?sslmode=require", "database_url",
         "postgresql+psycopg://h/d?sslmode=require"),
        ("DATABASE_URL", "postgresql+psycopg://h/d", "database_url", "postgresql+psycopg://h/d"),
        ("DATABASE_URL", "postgresql+asyncpg://h/d", "database_url", "postgresql+psycopg://h/d"),
        ("DATABASE_URL", "postgresql+psycopg2://h/d", "database_url", "postgresql+psycopg://h/d"),
        ("DATABASE_URL", "postgres://u:p%40ss@h/d", "database_url",
         "postgresql+psycopg://u:p%40ss@h/d"),
        ("BROKER_URL", "redis://:pw@h:6379/1", "broker", "redis://:pw@h:6379/1"),
        ("BROKER_URL", "rediss://h/0", "broker", "rediss://h/0"),
        ("BROKER_URL", "amqp://guest:guest@h:5672//", "broker", "amqp://guest:guest@h:5672//"),
        ("BROKER_URL", "amqps://h", "broker", "amqps://h"),
        ("REDIS_URL", "redis://h/2", "broker", "redis://h/2"),
        ("QUICKROUTER_API_KEY", "sk-123456", "api_key", "sk-123456"),
        ("QUICKROUTER_BASE_URL", "https://relay.example.com/", "base_url",
         "https://relay.example.com"),
        ("QUICKROUTER_BASE_URL", "http://127.0.0.1:8080/v1", "base_url",
         "http://127.0.0.1:8080/v1"),
        ("REELWATCH_REQUESTS_PER_SECOND", "0.5", "requests_per_second", 0.5),
        ("REELWATCH_POLL_MIN", "500ms", "poll_min", 0.5),
        ("REELWATCH_POLL_MAX", "2m", "poll_max", 120),
        ("REELWATCH_DEADLINE", "45m", "deadline", 2_700),
        ("REELWATCH_ABANDON_AFTER", "7d", "abandon_after", 604_800),
        ("REELWATCH_NOT_FOUND_AFTER", "0", "not_found_after", 0),
        ("REELWATCH_RESULT_GRACE", "90", "result_grace", 90),
        ("WEBHOOK_SECRET", SECRET, "secrets", (SECRET,)),
        ("WEBHOOK_SECRET", f" {SECRET}  {OLDER} ", "secrets", (SECRET, OLDER)),
        ("WEBHOOK_ALLOW", "hooks.internal, 10.0.0.0/8", "webhook_allow",
         "hooks.internal, 10.0.0.0/8"),
        ("REELWATCH_RETRY_SCHEDULE", "5s, 1m,2h", "retry_schedule", (5, 60, 7_200)),
        ("REELWATCH_RETRY_SCHEDULE", "0", "retry_schedule", (0,)),
        ("REELWATCH_WEBHOOK_TIMEOUT", "2.5s", "webhook_timeout", 2.5),
        ("LOG_FORMAT", "JSON", "log_format", "json"),
        ("LOG_FORMAT", "console", "log_format", "console"),
        ("LOG_LEVEL", "Debug", "log_level", "debug"),
    ],
)  # fmt: skip
def test_a_good_value_becomes_a_setting(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, attribute: str, expected: Any
) -> None:
    assert getattr(loaded(monkeypatch, **{name: value}), attribute) == expected


def test_an_empty_variable_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """As `NAME=` in a compose file leaves it."""
    got = loaded(monkeypatch, DATABASE_URL="", BROKER_URL="", WEBHOOK_SECRET="", LOG_FORMAT="")
    assert got == load()
    assert (got.database, got.in_memory) == (None, True)


def other_spellings() -> dict[str, str]:
    """Every name that could be taken for one of ours, each with a value that would be seen."""
    forms = set()
    for each in settings.VARIABLES:
        field, name = each.name, each.metadata["name"]
        bare = name.removeprefix("REELWATCH_").removeprefix("QUICKROUTER_")
        for form in (field, name, bare, f"REELWATCH_{name}", f"QUICKROUTER_{name}", f"{name}_"):
            forms |= {form, form.lower(), form.upper(), form.title(), form.replace("_", "")}
    return dict.fromkeys(forms - settings.NAMES, "sk-of-somebody-else\n")


@pytest.mark.parametrize("names", [settings.NAMES, settings.NAMES - settings.WORKERS_ONLY])
def test_only_the_documented_names_are_read(
    monkeypatch: pytest.MonkeyPatch, names: frozenset[str]
) -> None:
    """Whatever else is in the environment belongs to somebody else."""
    before = load(names)
    foreign = other_spellings()
    assert {"BASE_URL", "API_KEY", "DEADLINE", "Deadline", "database_url"} <= set(foreign)
    for name, value in foreign.items():
        monkeypatch.setenv(name, value)
    Path(".env").write_text("LOG_LEVEL=debug\nREELWATCH_DEADLINE=5s\n")
    got = load(names)
    assert got == before
    assert got.accounts == before.accounts
    assert got.log_level == "info"


def test_a_producers_own_variables_do_not_stop_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """What only workers need is not read where ids are handed in: it may mean something else."""
    for name, value in {
        "BROKER_URL": "sqs://", "REDIS_URL": "unix:///run/redis", "LOG_LEVEL": "TRACE",
        "LOG_FORMAT": "%(message)s", "WEBHOOK_SECRET": "theirs", "QUICKROUTER_API_KEY": "a b",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
        with pytest.raises(SettingsError, match=name):
            load()
        monkeypatch.setenv("REELWATCH_DEADLINE", "45m")
        assert settings.handing_in().deadline == 2_700
        monkeypatch.delenv(name)


def test_whoever_needs_a_database_says_so() -> None:
    with pytest.raises(SettingsError, match=r"^DATABASE_URL is not set: accepted: sqlite:///FILE"):
        _ = load().database_url


def test_broker_url_goes_before_redis_url(monkeypatch: pytest.MonkeyPatch) -> None:
    got = loaded(monkeypatch, BROKER_URL="amqp://h", REDIS_URL="redis://h")
    assert (got.broker, got.in_memory) == ("amqp://h", False)


def test_current_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    first = settings.current()
    monkeypatch.setenv("LOG_LEVEL", "debug")
    assert settings.current() is first


def test_rules_follow_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    got = loaded(
        monkeypatch, REELWATCH_POLL_MIN="1", REELWATCH_POLL_MAX="9", REELWATCH_NOT_FOUND_AFTER="3",
        REELWATCH_RESULT_GRACE="4", REELWATCH_ABANDON_AFTER="5",
    )  # fmt: skip
    rules = rules_of(got)
    assert (rules.pace.floor, rules.pace.ceiling) == (1, 9)
    assert (rules.not_found_after, rules.result_grace, rules.abandon_after) == (3, 4, 5)


def test_the_allowlist_is_that_of_webhook_allow(monkeypatch: pytest.MonkeyPatch) -> None:
    allowlist = loaded(monkeypatch, WEBHOOK_ALLOW="hooks.internal").allowlist
    assert allowlist.names("hooks.internal", 443)
    assert not allowlist.names("other.internal", 443)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("500ms", 0.5), ("45s", 45), ("10m", 600), ("2h", 7_200), ("7d", 604_800), ("30", 30),
        ("1.5h", 5_400), (" 10 M ", 600), (30, 30), (2.5, 2.5), ("0", 0), ("3650d", 315_360_000),
    ],
)  # fmt: skip
def test_a_duration_is_read_in_all_its_spellings(text: object, seconds: float) -> None:
    assert parse_duration(text) == seconds


# ----------------------------------------------------------------- wrong values


@pytest.mark.parametrize(
    ("name", "value", "accepted"),
    [
        ("REELWATCH_REQUESTS_PER_SECOND", "fast", "a valid number"),
        ("REELWATCH_REQUESTS_PER_SECOND", "0", "greater than 0"),
        ("REELWATCH_REQUESTS_PER_SECOND", "nan", "less than or equal to 10000"),
        ("REELWATCH_REQUESTS_PER_SECOND", "inf", "less than or equal to 10000"),
        ("REELWATCH_REQUESTS_PER_SECOND", "\u0665", "a valid number"),
        ("REELWATCH_POLL_MIN", "\u0665", "500ms, 45s, 10m, 2h, 7d"),
        ("REELWATCH_POLL_MIN", "soon", "500ms, 45s, 10m, 2h, 7d"),
        ("REELWATCH_POLL_MAX", "0", "greater than 0"),
        ("REELWATCH_DEADLINE", "-5m", "500ms, 45s, 10m, 2h, 7d"),
        ("REELWATCH_DEADLINE", "9" * 400, "at most 3650d"),
        ("REELWATCH_ABANDON_AFTER", "1 week", "500ms, 45s, 10m, 2h, 7d"),
        ("REELWATCH_NOT_FOUND_AFTER", "1e3", "500ms, 45s, 10m, 2h, 7d"),
        ("REELWATCH_RESULT_GRACE", "never", "500ms, 45s, 10m, 2h, 7d"),
        ("REELWATCH_WEBHOOK_TIMEOUT", "0s", "greater than 0"),
        ("REELWATCH_WEBHOOK_TIMEOUT", "121s", "a duration of at most 120s"),
        ("REELWATCH_RETRY_SCHEDULE", "5s,,1m", "a comma-separated list of durations"),
        ("REELWATCH_RETRY_SCHEDULE", "4000d", "a comma-separated list of durations"),
        ("WEBHOOK_ALLOW", "10.0.0.0/99", "is not a host, host:port, address or CIDR"),
        ("WEBHOOK_ALLOW", "foo bar", "='foo bar': 'foo bar' is not a host, host:port, "),
        ("WEBHOOK_ALLOW", "foo bar", "; separate entries with commas"),
        ("QUICKROUTER_BASE_URL", "api.quickrouter.ai", "https://api.quickrouter.ai"),
        ("QUICKROUTER_BASE_URL", "https://h/?key=1", "without query"),
        ("LOG_FORMAT", "xml", "'console' or 'json'"),
        ("LOG_LEVEL", "loud", "'debug', 'info', 'warning' or 'error'"),
    ],
)
def test_a_wrong_value_is_told_in_one_line_with_what_is_accepted(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, accepted: str
) -> None:
    """One line: the variable, its value, what is accepted."""
    with pytest.raises(SettingsError) as caught:
        loaded(monkeypatch, **{name: value})
    message = str(caught.value)
    said = "" if name == "WEBHOOK_ALLOW" else "accepted: "  # which entry is wrong, there
    assert message.startswith(f"{name}={value!r}: {said}")
    assert accepted in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("name", "value", "accepted"),
    [
        ("DATABASE_URL", "mysql://u:hidden-pw@h/d", "sqlite:///FILE"),
        ("DATABASE_URL", "hidden-pw", "sqlite:///FILE"),
        ("DATABASE_URL", "postgresql://u:hidden-pw@h:port/d", "sqlite:///FILE"),
        ("DATABASE_URL", "mysql://u:hidden-pw@h/d", "postgres://…, not mysql://…"),
        ("DATABASE_URL", "'postgresql://u:hidden-pw@h/d'", "without quotes around it"),
        ("DATABASE_URL", '"sqlite:///x.db"', "without quotes around it"),
        (
            "DATABASE_URL",
            "postgresql://u:hidden-pw@h/d?connect_timeout=abc",
            "?connect_timeout= is a number",
        ),
        ("DATABASE_URL", "sqlite:////var/x.db?mode=ro", "without ?mode="),
        ("DATABASE_URL", "sqlite://", "in memory"),
        ("DATABASE_URL", "sqlite:///:memory:", "in memory"),
        ("BROKER_URL", "http://u:hidden-pw@h", "redis://…"),
        ("BROKER_URL", "redis", "redis://…"),
        ("BROKER_URL", "redis://:hidden-pw@h:port/0", "redis://…"),
        ("REDIS_URL", "sqs://hidden-pw@h", "redis://…"),
        ("QUICKROUTER_API_KEY", "sk-hidden-pw\n", "without spaces or line ends"),
        ("QUICKROUTER_API_KEY", "Bearer hidden-pw", "without spaces or line ends"),
        ("QUICKROUTER_API_KEY", "hidden-pw-schlüssel", "in ASCII"),
        ("QUICKROUTER_BASE_URL", "https://u:hidden-pw@h", "an http(s) URL"),
        ("WEBHOOK_SECRET", "hidden-pw", "whsec_ and base64"),
        ("WEBHOOK_SECRET", "whsec_", "whsec_ and base64"),
        ("WEBHOOK_SECRET", "whsec_hidden-pw", "whsec_ and base64"),
        ("WEBHOOK_SECRET", f"{SECRET} whsec_hidden-pw", "whsec_ and base64"),
        ("WEBHOOK_SECRET", f"{SECRET},{OLDER}", "whsec_ and base64"),
        ("WEBHOOK_SECRET", "whsec_" + base64.b64encode(bytes(23)).decode(), "24 to 64 bytes"),
        ("WEBHOOK_SECRET", "whsec_" + base64.b64encode(bytes(65)).decode(), "24 to 64 bytes"),
        ("WEBHOOK_SECRET", "whsec_" + "-_" * 24, "whsec_ and base64"),
    ],
)
def test_a_secrets_wrong_value_is_not_shown(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, accepted: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        loaded(monkeypatch, **{name: value})
    message = str(caught.value)
    assert message.startswith(f"{name}=(not shown): accepted: ")
    assert accepted in message
    assert "hidden-pw" not in message
    assert len(value) < 20 or value not in message


TEXTS = [each.metadata["name"] for each in settings.VARIABLES if each.metadata["read"] is not Path]


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize(
    "value",
    [
        b"https://\xff\xfe.example.com",
        b"redis://:hidden-pw\xff@h/0",
        b"postgresql://u:hidden-pw\xff@h/d",
        b"postgresql://h/d?sslmode=\xff",
        b"sqlite:///f\xff.db",
        b"hidden-pw\xff",
    ],
)
def test_what_is_no_utf_8_is_refused_by_name_and_not_shown(
    monkeypatch: pytest.MonkeyPatch, name: str, value: bytes
) -> None:
    """Whatever it is about: nothing of it could be looked up, sent or stored."""
    with pytest.raises(SettingsError) as caught:
        loaded(monkeypatch, **{name: os.fsdecode(value)})
    accepted = "accepted: text in UTF-8, and it holds other bytes"
    assert str(caught.value) == f"{name}=(not shown): {accepted}"


def test_a_file_may_have_any_bytes_in_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    name = os.fsdecode(b"accounts-\xff.toml")
    Path(name).write_text("[accounts.second]\nrequests_per_second = 1\n", "utf-8")
    assert set(loaded(monkeypatch, REELWATCH_ACCOUNTS_FILE=name).accounts) == {"default", "second"}


def test_the_floor_lies_below_the_ceiling(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SettingsError, match="REELWATCH_POLL_MIN=90 is greater") as caught:
        loaded(monkeypatch, REELWATCH_POLL_MIN="90s")
    assert str(caught.value).endswith("REELWATCH_POLL_MAX=60: it must not be greater")


def test_a_default_webhook_needs_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it is sent from. A producer, who only hands in ids, has no need of one."""
    hook = "https://hooks.example.com/"
    assert loaded(monkeypatch, WEBHOOK_URL=hook).webhook_url == hook
    monkeypatch.setenv("DATABASE_URL", "sqlite:///x.db")
    with pytest.raises(SettingsError, match="WEBHOOK_SECRET is not"):
        settings.check_sending(load())
    settings.check_sending(loaded(monkeypatch, WEBHOOK_SECRET=SECRET))


@pytest.mark.parametrize("url", ["hooks.example.com", "http://hooks.example.com/", "https://[::1]"])
def test_a_default_webhook_is_checked_at_the_start(
    monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    """Not when the first producer hands in a job."""
    with pytest.raises(SettingsError, match=r"^WEBHOOK_URL=\(not shown\): callback URL refused"):
        loaded(monkeypatch, WEBHOOK_URL=url, WEBHOOK_SECRET=SECRET)


# --------------------------------------------------------------------- accounts


def with_accounts(monkeypatch: pytest.MonkeyPatch, text: str, **variables: str) -> Settings:
    Path("accounts.toml").write_text(text, "utf-8")
    return loaded(monkeypatch, REELWATCH_ACCOUNTS_FILE="accounts.toml", **variables)


def test_a_file_of_accounts_may_begin_with_a_byte_order_mark(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    got = with_accounts(monkeypatch, "\ufeff[accounts.studio]\nrequests_per_second = 2")
    assert got.accounts["studio"].requests_per_second == 2.0


def test_accounts_of_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each with what it says, and the defaults for what it does not."""
    got = with_accounts(
        monkeypatch,
        """
        [accounts.studio]
        base_url = "https://relay.example.com/"
        api_key_env = "STUDIO_KEY"
        requests_per_second = 2
        webhook_url = "https://studio.example.com/hooks"
        [accounts."cheap.1"]
        """,
        STUDIO_KEY="sk-studio", QUICKROUTER_API_KEY="sk-default",
        WEBHOOK_URL="https://hooks.example.com/", WEBHOOK_SECRET=SECRET,
    ).accounts  # fmt: skip
    upstream, hooks = "https://api.quickrouter.ai", "https://hooks.example.com/"
    assert got == {
        "default": Account("default", upstream, "sk-default", 5.0, hooks),
        "studio": Account(
            "studio", "https://relay.example.com", "sk-studio", 2.0,
            "https://studio.example.com/hooks", "STUDIO_KEY",
        ),
        "cheap.1": Account("cheap.1", upstream, "sk-default", 5.0, hooks),
    }  # fmt: skip


def test_the_file_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each poll and each id asks for its account: that must not cost reading a file."""
    got = with_accounts(monkeypatch, "[accounts.studio]")
    Path("accounts.toml").write_text("[accounts.gallery]", "utf-8")
    assert list(got.accounts) == ["default", "studio"]
    assert list(load().accounts) == ["default", "gallery"]
    Path("accounts.toml").unlink()
    assert list(got.accounts) == ["default", "studio"]
    with pytest.raises(SettingsError, match="No such file"):
        load()


def test_a_file_may_say_what_default_is(monkeypatch: pytest.MonkeyPatch) -> None:
    got = with_accounts(monkeypatch, "[accounts.default]\nrequests_per_second = 1.5").accounts
    assert list(got) == ["default"]
    assert got["default"].requests_per_second == 1.5


def test_a_file_without_accounts(monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(with_accounts(monkeypatch, "").accounts) == ["default"]


def test_an_account_without_its_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """Is there, so that its jobs are accepted; polls of them wait for the key."""
    got = with_accounts(monkeypatch, '[accounts.studio]\napi_key_env = "STUDIO_KEY"').accounts
    assert got["studio"].api_key is None
    assert got["studio"].api_key_env == "STUDIO_KEY"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[accounts.studio", "Expected ']'"),
        ("accounts = 5", "accepted: [accounts.NAME]"),
        ("[accounts]\nstudio = 5", "no table; accepted: base_url, api_key_env"),
        (
            "[accounts.studio]\napi_key = 'sk-hidden'",
            "[accounts.studio]: 'api_key' is unknown (is 'api_key_env' meant?); accepted",
        ),
        ("[account.studio]", "'account' is unknown (is 'accounts' meant?)"),
        (
            "[accounts.studio]\nbase_ulr = 'https://h'",
            "'base_ulr' is unknown (is 'base_url' meant?)",
        ),
        ("[accounts.studio.limits]\nburst = 3", "'limits' is unknown; accepted: base_url"),
        (
            "requests_per_second = 5\n[accounts.studio]",
            "'requests_per_second' is unknown; accepted",
        ),
        ("[[accounts]]\nname = 'studio'", "accounts is no table; accepted: [accounts.NAME]"),
        ("[accounts.studio]\nbase_url = 5", "base_url=5; accepted: a URL"),
        ("[accounts.studio]\nbase_url = ''", "base_url=''; accepted: a URL"),
        ("[accounts.studio]\napi_key_env = 5", "api_key_env=5; accepted: the name of a variable"),
        ("[accounts.studio]\napi_key_env = ''", "api_key_env=''; accepted"),
        ("[accounts.studio]\napi_key_env = 'sk-hidden'", "api_key_env; accepted: the name"),
        ("[accounts.studio]\nwebhook_url = ['https://h']", "webhook_url=['https://h']; accepted"),
        ('[accounts."a b"]', "a name has letters"),
        (
            "[accounts.studio]\nrequests_per_second = 0",
            "requests_per_second=0; accepted: more than 0, at most 10000",
        ),
        ("[accounts.studio]\nrequests_per_second = true", "requests_per_second=True; accepted"),
        ("[accounts.studio]\nrequests_per_second = '5'", "requests_per_second='5'; accepted"),
        ("[accounts.studio]\nrequests_per_second = nan", "requests_per_second=nan; accepted"),
        ("[accounts.studio]\nbase_url = 'ftp://h'", "base_url: accepted: an http(s) URL"),
        ("[accounts.studio]\nwebhook_url = 5", "webhook_url=5; accepted: a URL"),
        (
            "[accounts.studio]\nwebhook_url = 'http://h'",
            "account studio: webhook_url=(not shown): callback",
        ),
        ("[accounts.studio]\napi_key_env = 'STUDIO_KEY'", "STUDIO_KEY: accepted: the key alone"),
    ],
)
def test_a_wrong_accounts_file(monkeypatch: pytest.MonkeyPatch, text: str, reason: str) -> None:
    """The message names file and account, and shows no key."""
    with pytest.raises(SettingsError) as caught:
        with_accounts(monkeypatch, text, WEBHOOK_SECRET=SECRET, STUDIO_KEY="sk-hidden\n")
    message = str(caught.value)
    assert reason in message
    assert "hidden" not in message
    assert "accounts.toml" in message or "webhook_url" in message


OTHER_HOST = "https://relay.example.com"


@pytest.mark.parametrize(
    "said",
    [
        f'[accounts.studio]\nbase_url = "{OTHER_HOST}"',
        f'[accounts.studio]\nbase_url = "{OTHER_HOST}"\napi_key_env = "QUICKROUTER_API_KEY"',
        '[accounts.studio]\nbase_url = "http://api.quickrouter.ai"\n'
        'api_key_env = "QUICKROUTER_API_KEY"',
        f'[accounts.default]\nbase_url = "{OTHER_HOST}"',
    ],
)
def test_a_key_goes_to_its_own_host_alone(monkeypatch: pytest.MonkeyPatch, said: str) -> None:
    """Whoever names another base URL names the variable of its key, too."""
    key = "sk-of-quickrouter"
    with pytest.raises(SettingsError, match="needs an api_key_env of its own") as caught:
        with_accounts(monkeypatch, said, QUICKROUTER_API_KEY=key)
    assert key not in str(caught.value)
    assert "accounts.toml: [accounts." in str(caught.value)


def test_the_same_host_has_the_same_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """Named by another path, where that is said; and without a word where nothing differs."""
    got = with_accounts(
        monkeypatch,
        """
        [accounts.same]
        base_url = "https://api.quickrouter.ai/"
        [accounts.path]
        base_url = "https://api.quickrouter.ai/eu"
        api_key_env = "QUICKROUTER_API_KEY"
        """,
        QUICKROUTER_API_KEY="sk-default",
    ).accounts
    assert {each.api_key for each in got.values()} == {"sk-default"}


def test_an_accounts_file_that_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SettingsError, match=r"REELWATCH_ACCOUNTS_FILE=none\.toml: .*No such file"):
        loaded(monkeypatch, REELWATCH_ACCOUNTS_FILE="none.toml")


# ---------------------------------------------------------------- kept secrets


def keep(text: str) -> Path:
    path = secrecy.secret_file(Path("reelwatch.db"))
    path.write_text(text)
    return path


@pytest.mark.usefixtures("beside_up")
def test_the_secret_that_up_keeps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every process on that database signs with it, until WEBHOOK_SECRET names others."""
    keep(SECRET + "\n")
    assert load().secrets == (SECRET,)
    assert loaded(monkeypatch, WEBHOOK_SECRET=OLDER).secrets == (OLDER,)


def test_no_secret_is_kept_beside_a_server(monkeypatch: pytest.MonkeyPatch) -> None:
    keep(SECRET)
    got = loaded(monkeypatch, DATABASE_URL="postgres://h/reelwatch.db")
    assert got.sqlite_path is None
    assert got.secrets == ()


@pytest.mark.usefixtures("beside_up")
def test_a_spoilt_kept_secret_is_named() -> None:
    path = keep("hidden-pw")
    with pytest.raises(SettingsError, match="whsec_ and base64") as caught:
        _ = load().secrets
    assert str(path) in str(caught.value)
    assert "hidden-pw" not in str(caught.value)


@pytest.mark.usefixtures("beside_up")
def test_a_kept_secret_that_cannot_be_read_is_named() -> None:
    secrecy.secret_file(Path("reelwatch.db")).mkdir()
    with pytest.raises(SettingsError, match=r"reelwatch\.db\.secret .*: Is a directory"):
        _ = load().secrets


# ------------------------------------------------------------------- secrecy


def test_settings_show_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    """Printed by mistake, they tell no key."""
    got = loaded(
        monkeypatch, QUICKROUTER_API_KEY="sk-hidden", WEBHOOK_SECRET=SECRET,
        DATABASE_URL="postgres://u:hidden@h/d", REDIS_URL="redis://:hidden@h/",
        BROKER_URL="amqp://u:hidden@h/",
    )  # fmt: skip
    assert "hidden" not in repr(got) + repr(got.accounts)
    assert SECRET not in repr(got)
    assert repr(got.accounts["default"]) == "Account('default', 'https://api.quickrouter.ai')"
