"""Reelwatch's settings, read from the environment (and a TOML file of accounts) on demand.

Only the documented names are read, as they are spelled, and nothing else of the environment: it may
be a producer's, whose variables mean something else. A wrong value raises `SettingsError` with one
message that names the variable, the value (never a secret's) and what is accepted. Durations are
seconds as floats once read.
"""

import os
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, fields
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Literal, get_args

from sqlalchemy.engine import make_url

from reelwatch.config import callbacks, naming, trust, values
from reelwatch.config.accounts import (
    DEFAULT_KEY,
    WEBHOOK_SECRET,
    Account,
    check_api_key,
    check_base_url,
    read_accounts,
)
from reelwatch.config.kept import kept_secrets
from reelwatch.config.secrecy import secret_file
from reelwatch.config.servers import DATABASE_FORMS
from reelwatch.config.tokens import ApiToken, parse_tokens
from reelwatch.errors import SettingsError
from reelwatch.rules import spelling, urls
from reelwatch.rules.callback_url import Allowlist, parse_allowlist
from reelwatch.rules.durations import parse_duration, parse_retry_schedule, parse_webhook_timeout
from reelwatch.rules.timing.pace import TARGET_DELAY
from reelwatch.rules.webhook_secrets import parse_secrets

MEMORY_BROKER = "memory://localhost//"
NO_DATABASE = (
    f"DATABASE_URL is not set: accepted: {DATABASE_FORMS}. Workers, beat and whoever hands in ids "
    "name the database they share; only `reelwatch up` and the commands beside it use "
    f"{urls.DEFAULT_DATABASE} by default"
)


LogFormat = Literal["console", "json"]
LogLevel = Literal["debug", "info", "warning", "error"]


def _env(
    name: str, default: Any = None, read: Callable[[Any], Any] = str, *, secret: bool = False
) -> Any:
    """A setting of this variable, and what makes a value of its text, or of a value again.

    A `secret` one is never shown, right or wrong.
    """
    return field(default=default, repr=not secret, metadata={"name": name, "read": read})


@dataclass(frozen=True)
class Settings:
    """All settings; `load()` makes one from the environment."""

    database: str | None = _env("DATABASE_URL", read=values.database, secret=True)
    broker_url: str | None = _env("BROKER_URL", read=values.broker, secret=True)
    redis_url: str | None = _env("REDIS_URL", read=values.broker, secret=True)
    api_key: str | None = _env("QUICKROUTER_API_KEY", read=check_api_key, secret=True)
    base_url: str = _env("QUICKROUTER_BASE_URL", "https://api.quickrouter.ai", check_base_url)
    accounts_file: Path | None = _env("REELWATCH_ACCOUNTS_FILE", None, Path)
    place: str | None = _env(naming.VARIABLE)  # of the tables; `naming` reads and checks it
    requests_per_second: float = _env("REELWATCH_REQUESTS_PER_SECOND", 5.0, values.rate)
    poll_min: float = _env("REELWATCH_POLL_MIN", 5.0, values.positive())
    poll_max: float = _env("REELWATCH_POLL_MAX", 60.0, values.positive())
    target_delay: float = _env("REELWATCH_TARGET_DELAY", TARGET_DELAY, values.positive())
    deadline: float = _env("REELWATCH_DEADLINE", 3_600.0, values.positive())
    abandon_after: float = _env("REELWATCH_ABANDON_AFTER", 86_400.0, values.positive())
    not_found_after: float = _env("REELWATCH_NOT_FOUND_AFTER", 300.0, parse_duration)
    result_grace: float = _env("REELWATCH_RESULT_GRACE", 300.0, parse_duration)
    webhook_secrets: tuple[str, ...] = _env("WEBHOOK_SECRET", (), parse_secrets, secret=True)
    webhook_allow: str = _env("WEBHOOK_ALLOW", "", values.allowlist)
    webhook_url: str | None = _env("WEBHOOK_URL")
    retry_schedule: tuple[float, ...] = _env(
        "REELWATCH_RETRY_SCHEDULE",
        (5.0, 60.0, 300.0, 1_800.0, 7_200.0, 18_000.0, 36_000.0, 50_400.0, 72_000.0, 86_400.0),
        parse_retry_schedule,
    )
    webhook_timeout: float = _env(
        "REELWATCH_WEBHOOK_TIMEOUT", 15.0, values.positive(parse_webhook_timeout)
    )
    api_tokens: tuple[ApiToken, ...] = _env("REELWATCH_API_TOKENS", (), parse_tokens, secret=True)
    metrics_public: bool = _env("REELWATCH_METRICS_PUBLIC", False, values.flag)
    operator_url: str | None = _env("REELWATCH_OPERATOR_URL")
    ping_url: str | None = _env("REELWATCH_PING_URL")
    log_format: LogFormat | None = _env("LOG_FORMAT", read=values.one_of(*get_args(LogFormat)))
    log_level: LogLevel = _env("LOG_LEVEL", "info", values.one_of(*get_args(LogLevel)))
    # Where the variables are that accounts name: a process that hands in ids has no use for them.
    secrets_in: Mapping[str, str] = field(
        default_factory=lambda: os.environ, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        for each in VARIABLES:
            value = getattr(self, each.name)
            if value == each.default:
                continue
            read = each.metadata["read"]
            try:
                if read is not Path:  # a file may have any bytes in its name
                    values.check_text(value)
                object.__setattr__(self, each.name, read(value))
            except ValueError as error:
                name, secret = each.metadata["name"], not each.repr
                told = values.explain(name, value, str(error), secret=secret)
                raise SettingsError(told) from None
        if self.poll_min > self.poll_max:
            raise SettingsError(
                f"REELWATCH_POLL_MIN={self.poll_min:g} is greater than "
                f"REELWATCH_POLL_MAX={self.poll_max:g}: it must not be greater"
            )

    @property
    def broker(self) -> str:
        """The broker's URL; in-memory where none is set."""
        return self.broker_url or self.redis_url or MEMORY_BROKER

    @property
    def in_memory(self) -> bool:
        """Is the broker this process's own memory?"""
        return self.broker.startswith("memory")

    @property
    def database_url(self) -> str:
        """The database's URL. Raises `SettingsError` where there is none."""
        if self.database is None:
            raise SettingsError(NO_DATABASE)
        return self.database

    def check_database(self) -> None:
        """Raise `SettingsError` where no database is named."""
        _ = self.database_url

    @property
    def sqlite_path(self) -> Path | None:
        """The file of an SQLite database; None for another database or none."""
        url = make_url(self.database) if self.database else None
        if url is None or url.get_backend_name() != "sqlite":
            return None
        return Path(str(url.database))

    def database_options(self) -> Mapping[str, Any]:
        """What DATABASE_URL tells PostgreSQL's client library."""
        url = make_url(self.database_url)
        return {**url.translate_connect_args(username="user", database="dbname"), **url.query}

    def private_files(self) -> list[Path]:
        """The files of an SQLite database that are there, its kept secret among them."""
        path = self.sqlite_path
        if path is None:
            return []
        beside = (path.with_name(path.name + end) for end in ("", "-wal", "-shm"))
        return [each for each in (*beside, secret_file(path)) if each.exists()]

    @property
    def secrets(self) -> tuple[str, ...]:
        """The webhook secrets, newest first: the configured ones, else those that `up` keeps."""
        return self.webhook_secrets or kept_secrets(self.sqlite_path)

    def secrets_of(self, account: str) -> tuple[str, ...]:
        """What an account's events are signed with, the newest first; empty where there is nothing.

        One that names a variable of its own never falls back to WEBHOOK_SECRET: its receiver may
        belong to somebody else than the others' do. So one that is not configured here has none:
        it may name a variable where it is.
        """
        known = self.accounts.get(account)
        if known is None:
            return ()
        return known.webhook_secrets if known.webhook_secret_env else self.secrets

    def secret_variable(self, account: str) -> str:
        """The variable that holds the secrets of an account's events."""
        known = self.accounts.get(account)
        return (known and known.webhook_secret_env) or WEBHOOK_SECRET

    def secret_place(self, account: str) -> str:
        """Where an account's secret stands: its variable, or the file that `up` keeps it in."""
        variable, path = self.secret_variable(account), self.sqlite_path
        if variable == WEBHOOK_SECRET and not self.webhook_secrets and path is not None:
            return secret_file(path).name
        return variable

    def all_secrets(self) -> tuple[str, ...]:
        """The secrets of all accounts, each once."""
        of_accounts = (self.secrets_of(name) for name in self.accounts)
        return tuple(dict.fromkeys(each for secrets in of_accounts for each in secrets))

    @property
    def allowlist(self) -> Allowlist:
        """The private addresses that callback URLs may reach."""
        return parse_allowlist(self.webhook_allow)

    @cached_property
    def accounts(self) -> Mapping[str, Account]:
        """All configured accounts by name; `default` is always among them. The file is read once.

        Raises `SettingsError`; what `load()` returns no longer does.
        """
        default = Account(
            "default", self.base_url, self.api_key, self.requests_per_second, self.webhook_url
        )
        if self.accounts_file is None:
            return {"default": default}
        return {"default": default} | read_accounts(self.accounts_file, default, self.secrets_in)

    def unsigned(self) -> Iterator[str]:
        """What to say of accounts whose own secret is not there: their webhooks wait."""
        for each in self.accounts.values():
            if each.webhook_secret_env and not each.webhook_secrets:
                yield (
                    f"account {each.name}: {each.webhook_secret_env} is not set, and its webhooks "
                    "are signed with nothing else: they wait"
                )

    def slips(self) -> Iterator[str]:
        """What to say of variables that look like ours and that nothing reads."""
        named = ((each.api_key_env, each.webhook_secret_env) for each in self.accounts.values())
        known = {*NAMES, *(name for names in named for name in names if name)}
        for name, meant in spelling.slips(os.environ.keys(), known):
            hint = f": is {meant} meant?" if meant else ""
            yield f"{name} is set and nothing reads it{hint}"


VARIABLES = tuple(each for each in fields(Settings) if "name" in each.metadata)
NAMES = frozenset(each.metadata["name"] for each in VARIABLES)
# What a process that only hands in ids has no use for. These may be its own: a LOG_LEVEL of another
# logger, a BROKER_URL of a kind that Reelwatch does not know.
WORKERS_ONLY = frozenset(
    {
        "BROKER_URL",
        "REDIS_URL",
        "LOG_FORMAT",
        "LOG_LEVEL",
        "WEBHOOK_SECRET",
        DEFAULT_KEY,
        "REELWATCH_API_TOKENS",
    }
)


def load(names: Collection[str] = NAMES) -> Settings:
    """The settings of the environment as it is now, of these variables. Raises `SettingsError`."""
    asked = ((each.name, each.metadata["name"]) for each in VARIABLES)
    given: dict[str, Any] = {
        name: value
        for name, variable in asked
        if variable in names and (value := os.environ.get(variable))
    }
    if not set(names) >= WORKERS_ONLY:
        given["secrets_in"] = {}
    settings = Settings(**given)
    _check_callbacks(settings)
    _check_place()
    return settings


@cache
def current(names: frozenset[str] = NAMES) -> Settings:
    """The settings of this process, read once. Raises `SettingsError`."""
    return load(names)


def handing_in() -> Settings:
    """What `track()` and its like need in anybody's process; the same as `current()` in ours."""
    return current(NAMES - WORKERS_ONLY)


def _check_callbacks(settings: Settings) -> None:
    of_accounts = (
        ("WEBHOOK_URL" if url == settings.webhook_url else f"account {name}: webhook_url", url)
        for name, url in ((each.name, each.webhook_url) for each in settings.accounts.values())
    )
    operator = ("REELWATCH_OPERATOR_URL", settings.operator_url)
    ping = ("REELWATCH_PING_URL", settings.ping_url)
    callbacks.check((*of_accounts, operator, ping), settings.allowlist)


def check_sending(settings: Settings) -> None:
    """Raise `SettingsError` for what a process lacks that polls and sends webhooks.

    One that only hands in ids needs neither a secret nor anybody's certificates.
    """
    if lacking := missing(settings):
        raise SettingsError("; and ".join(lacking))
    trust.check()


def missing(settings: Settings) -> list[str]:
    """What such a process needs and has not, a sentence each: told at once, not one by one.

    An account with a secret of its own stops nobody else: while it is not set, `unsigned` tells.
    """
    unsigned = any(
        each.webhook_url and not each.webhook_secret_env and not settings.secrets
        for each in settings.accounts.values()
    )
    untold = settings.operator_url is not None and not settings.secrets
    named = (("REELWATCH_OPERATOR_URL", untold), (callbacks.OF_ACCOUNTS, unsigned))
    lacking = [NO_DATABASE] * (settings.database is None)
    return lacking + [f"{name} {callbacks.UNSIGNED}" for name, is_so in named if is_so]


def _check_place() -> None:
    """Is REELWATCH_SCHEMA right, and what our tables got their names by?"""
    shown = f"{naming.VARIABLE}={os.environ.get(naming.VARIABLE, '')!r}"
    try:
        named = naming.read(os.environ)
    except ValueError as error:
        raise SettingsError(f"{shown}: accepted: {error}") from None
    if named != naming.HERE:
        raise SettingsError(
            f"{shown}: it, or the kind of database, was another when reelwatch was imported; "
            "accepted: an environment that is complete before that"
        )
