"""Reelwatch's settings, read from the environment (and a TOML file of accounts) on demand.

A wrong value raises `SettingsError` with one message that names the variable, the value (never a
secret's) and what is accepted. Durations are seconds as floats once read.
"""

import os
import re
import tomllib
from base64 import b64decode
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import unquote

from pydantic import BeforeValidator, Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from reelwatch import naming
from reelwatch.errors import Refused, SettingsError
from reelwatch.lifecycle import Rules
from reelwatch.outbound import Allowlist, check_url, parse_allowlist
from reelwatch.schedule import TARGET_DELAY, Pace, Plans

DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)?")
UNITS = {"ms": 0.001, None: 1.0, "s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0}
DURATION_FORMS = "500ms, 45s, 10m, 2h, 7d, or a number of seconds"
API_KEY = re.compile(r"[!-~]+")  # what a header can hold
ACCOUNT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
BROKER_SCHEMES = ("redis", "rediss", "amqp", "amqps", "memory")
MEMORY_BROKER = "memory://localhost//"
LONGEST_SECONDS = 3_650 * 86_400.0  # what is added to a time must leave one that can be stored
URL_PASSWORD = re.compile(r"://[^:/]*:([^@]*)@|[?&]password=([^&]*)")


def parse_duration(value: object) -> float:
    """Seconds from `500ms`, `45s`, `10m`, `2h`, `7d` or a number of seconds; else ValueError."""
    match = DURATION.fullmatch(str(value).strip().casefold())
    if match is None:
        raise ValueError(f"a duration: {DURATION_FORMS}")
    seconds = float(match[1]) * UNITS[match[2]]
    if seconds > LONGEST_SECONDS:
        raise ValueError(f"a duration of at most {LONGEST_SECONDS / UNITS['d']:.0f}d")
    return seconds


def parse_retry_schedule(value: object) -> tuple[float, ...]:
    """Delays in seconds from a comma-separated list of durations."""
    parts = value if isinstance(value, tuple | list) else str(value).split(",")
    try:
        return tuple(parse_duration(part) for part in parts)
    except ValueError as error:
        raise ValueError(f"a comma-separated list of durations ({DURATION_FORMS})") from error


def parse_secrets(value: object) -> tuple[str, ...]:
    """The `whsec_…` secrets of a space-separated list, newest first."""
    secrets = tuple(value if isinstance(value, tuple | list) else str(value).split())
    for secret in secrets:
        _check_secret(secret)
    return secrets


def _check_secret(secret: str) -> None:
    accepted = "whsec_ and base64 of 24 to 64 bytes (`reelwatch secret` makes one)"
    if not secret.startswith("whsec_"):
        raise ValueError(accepted)
    try:
        # Strictly: decoders that skip foreign characters would each sign with another key.
        key = b64decode(secret.removeprefix("whsec_"), validate=True)
    except ValueError:
        raise ValueError(accepted) from None
    if not 24 <= len(key) <= 64:
        raise ValueError(accepted)


Duration = Annotated[float, BeforeValidator(parse_duration)]
PositiveDuration = Annotated[float, BeforeValidator(parse_duration), Field(gt=0)]


@dataclass(frozen=True, slots=True)
class Account:
    """One upstream key and how it may be used. The key stays out of `repr`."""

    name: str
    base_url: str
    api_key: str | None
    requests_per_second: float
    webhook_url: str | None = None
    api_key_env: str = "QUICKROUTER_API_KEY"

    def __repr__(self) -> str:
        return f"Account({self.name!r}, {self.base_url!r})"


def _env(name: str, default: Any = None, *, secret: bool = False) -> Any:
    return Field(default=default, validation_alias=name, repr=not secret)


class Settings(BaseSettings):
    """All settings; `load()` makes one from the environment."""

    model_config = SettingsConfigDict(
        frozen=True, extra="ignore", env_ignore_empty=True, populate_by_name=True
    )

    database_url: str = _env("DATABASE_URL", "sqlite:///reelwatch.db", secret=True)
    broker_url: str | None = _env("BROKER_URL", secret=True)
    redis_url: str | None = _env("REDIS_URL", secret=True)
    api_key: str | None = _env("QUICKROUTER_API_KEY", secret=True)
    base_url: str = _env("QUICKROUTER_BASE_URL", "https://api.quickrouter.ai")
    accounts_file: Path | None = _env("REELWATCH_ACCOUNTS_FILE")
    place: str | None = _env(naming.VARIABLE)  # of the tables; `naming` reads and checks it
    requests_per_second: float = Field(
        default=5.0, gt=0, le=10_000, validation_alias="REELWATCH_REQUESTS_PER_SECOND"
    )
    poll_min: PositiveDuration = _env("REELWATCH_POLL_MIN", 5.0)
    poll_max: PositiveDuration = _env("REELWATCH_POLL_MAX", 60.0)
    target_delay: PositiveDuration = _env("REELWATCH_TARGET_DELAY", TARGET_DELAY)
    deadline: PositiveDuration = _env("REELWATCH_DEADLINE", 3_600.0)
    abandon_after: PositiveDuration = _env("REELWATCH_ABANDON_AFTER", 86_400.0)
    not_found_after: Duration = _env("REELWATCH_NOT_FOUND_AFTER", 300.0)
    result_grace: Duration = _env("REELWATCH_RESULT_GRACE", 300.0)
    webhook_secrets: Annotated[tuple[str, ...], NoDecode, BeforeValidator(parse_secrets)] = _env(
        "WEBHOOK_SECRET", (), secret=True
    )
    webhook_allow: Annotated[str, NoDecode] = _env("WEBHOOK_ALLOW", "")
    webhook_url: str | None = _env("WEBHOOK_URL")
    retry_schedule: Annotated[
        tuple[float, ...], NoDecode, BeforeValidator(parse_retry_schedule)
    ] = _env(
        "REELWATCH_RETRY_SCHEDULE",
        (5.0, 60.0, 300.0, 1_800.0, 7_200.0, 18_000.0, 36_000.0, 50_400.0, 72_000.0, 86_400.0),
    )
    webhook_timeout: PositiveDuration = _env("REELWATCH_WEBHOOK_TIMEOUT", 15.0)
    log_format: Literal["console", "json"] | None = _env("LOG_FORMAT")
    log_level: Literal["debug", "info", "warning", "error"] = _env("LOG_LEVEL", "info")

    @field_validator("database_url")
    @classmethod
    def _known_database(cls, value: str) -> str:
        return normal_database_url(value).render_as_string(hide_password=False)

    @field_validator("broker_url", "redis_url")
    @classmethod
    def _known_broker(cls, value: str | None) -> str | None:
        return value if value is None else check_broker_url(value)

    @field_validator("api_key")
    @classmethod
    def _key_alone(cls, value: str | None) -> str | None:
        return value if value is None else check_api_key(value)

    @field_validator("base_url")
    @classmethod
    def _http_url(cls, value: str) -> str:
        return check_base_url(value)

    @field_validator("webhook_allow")
    @classmethod
    def _allowlist(cls, value: str) -> str:
        parse_allowlist(value)
        return value

    @field_validator("log_level", "log_format", mode="before")
    @classmethod
    def _any_case(cls, value: object) -> object:
        return value.casefold() if isinstance(value, str) else value

    @model_validator(mode="after")
    def _floor_below_ceiling(self) -> "Settings":
        if self.poll_min > self.poll_max:
            raise ValueError(
                f"REELWATCH_POLL_MIN={self.poll_min:g} is greater than "
                f"REELWATCH_POLL_MAX={self.poll_max:g}: accepted is a floor below the ceiling"
            )
        return self

    @property
    def broker(self) -> str:
        """The broker's URL; in-memory where none is set."""
        return self.broker_url or self.redis_url or MEMORY_BROKER

    @property
    def in_memory(self) -> bool:
        """Is the broker this process's own memory?"""
        return self.broker.startswith("memory")

    @property
    def sqlite_path(self) -> Path | None:
        """The file of an SQLite database; None for another database or one in memory."""
        url = make_url(self.database_url)
        if url.get_backend_name() != "sqlite" or url.database in (None, "", ":memory:"):
            return None
        return Path(str(url.database))

    @property
    def secrets(self) -> tuple[str, ...]:
        """The webhook secrets, newest first: the configured ones, else those that `up` keeps."""
        return self.webhook_secrets or _kept_secrets(self.sqlite_path)

    @property
    def allowlist(self) -> Allowlist:
        """The private addresses that callback URLs may reach."""
        return parse_allowlist(self.webhook_allow)

    @property
    def plans(self) -> Plans:
        """When to look, as long as nothing has been learned."""
        return Plans(Pace(self.poll_min, self.poll_max), self.target_delay)

    @property
    def rules(self) -> Rules:
        """What decisions about jobs depend on."""
        return Rules(self.plans, self.not_found_after, self.result_grace, self.abandon_after)

    @cached_property
    def accounts(self) -> Mapping[str, Account]:
        """All configured accounts by name; `default` is always among them. The file is read once.

        Raises `SettingsError`; what `load()` returns no longer does.
        """
        default = Account(
            "default", self.base_url, self.api_key, self.requests_per_second, self.webhook_url
        )
        return {"default": default} | read_accounts(self)

    def foreign_secrets(self) -> tuple[str, ...]:
        """Every text that must never be printed: keys, secrets, passwords in URLs."""
        keys = [account.api_key for account in self.accounts.values()]
        urls = (self.database_url, self.broker_url, self.redis_url)
        found = [
            *keys,
            *self.secrets,
            *(s.removeprefix("whsec_") for s in self.secrets),
            *(password for url in urls if url for password in _passwords(url)),
        ]
        return tuple(text for text in found if text and len(text) >= 6)


def _passwords(url: str) -> Iterator[str]:
    """The passwords in a URL, as they stand there and as they are meant."""
    for groups in URL_PASSWORD.findall(url):
        for password in filter(None, groups):
            yield password
            yield unquote(password)


def load() -> Settings:
    """The settings of the environment as it is now. Raises `SettingsError`."""
    try:
        settings = Settings()
    except ValidationError as error:
        raise SettingsError(_explain(error)) from None
    _check_accounts(settings)
    _check_place()
    return settings


@cache
def current() -> Settings:
    """The settings of this process, read once. Raises `SettingsError`."""
    return load()


def normal_database_url(value: str) -> URL:
    """The URL with its driver named: `postgres://` and `postgresql://` mean psycopg 3."""
    accepted = "sqlite:///FILE, postgresql://USER:PASSWORD@HOST/DATABASE or postgres://…"
    try:
        url = make_url(_several_hosts(value))
    except (ArgumentError, ValueError):
        raise ValueError(accepted) from None
    if url.drivername in ("postgres", "postgresql"):
        return url.set(drivername="postgresql+psycopg")
    if url.drivername not in ("sqlite", "sqlite+pysqlite", "postgresql+psycopg"):
        raise ValueError(accepted)
    if url.get_backend_name() == "sqlite" and url.database in (None, "", ":memory:"):
        raise ValueError(f"{accepted} (in memory, every connection would have its own)")
    return url


def _several_hosts(value: str) -> str:
    """`//user:password@a:5432,b:5433/name`, as libpq takes it, in the form that SQLAlchemy does."""
    start, _, rest = value.partition("://")
    place, slash, tail = rest.partition("/")
    user, at, hosts = place.rpartition("@")
    if "," not in hosts:
        return value
    name, _, query = tail.partition("?")
    listed = "&".join([*(f"host={host}" for host in hosts.split(",")), *filter(None, [query])])
    return f"{start}://{user}{at}{slash or '/'}{name}?{listed}"


def check_broker_url(value: str) -> str:
    """A broker's URL; ValueError where it is none, or one of a kind that is not supported."""
    accepted = "redis://…, rediss://…, amqp://… or amqps://…"
    try:
        scheme = make_url(value).drivername
    except (ArgumentError, ValueError):
        raise ValueError(accepted) from None
    if scheme not in BROKER_SCHEMES:
        raise ValueError(accepted)
    return value


def check_api_key(value: str) -> str:
    """A key that can be sent; ValueError for one with a line end, say, from a careless copy."""
    if not API_KEY.fullmatch(value):
        raise ValueError("the key alone, in ASCII and without spaces or line ends")
    return value


def check_base_url(value: str) -> str:
    """An upstream's base URL without trailing slash; ValueError where it is none."""
    if not re.fullmatch(r"https?://[^\s/?#@]+(/[^\s?#]*)?", value):
        raise ValueError("an http(s) URL without query, e.g. https://api.quickrouter.ai")
    return value.rstrip("/")


def read_accounts(settings: Settings) -> dict[str, Account]:
    """The accounts of REELWATCH_ACCOUNTS_FILE. Raises `SettingsError`."""
    path = settings.accounts_file
    if path is None:
        return {}
    try:
        document = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"REELWATCH_ACCOUNTS_FILE={path}: {error}") from None
    tables = document.get("accounts", {})
    if not isinstance(tables, dict):
        raise SettingsError(f"REELWATCH_ACCOUNTS_FILE={path}: accounts; accepted: [accounts.NAME]")
    return {name: _account(settings, name, table) for name, table in tables.items()}


def _account(settings: Settings, name: str, table: dict[str, Any]) -> Account:
    known = {"base_url", "api_key_env", "requests_per_second", "webhook_url"}
    where = f"REELWATCH_ACCOUNTS_FILE={settings.accounts_file}: [accounts.{name}]"
    if not ACCOUNT_NAME.fullmatch(name):
        raise SettingsError(f"{where}: a name has letters, digits, '.', '_', '-', at most 64")
    if not isinstance(table, dict) or set(table) - known:
        odd = ", ".join(sorted(set(table) - known)) if isinstance(table, dict) else "no table"
        raise SettingsError(f"{where}: {odd}; accepted: {', '.join(sorted(known))}")
    rate = table.get("requests_per_second", settings.requests_per_second)
    if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 < rate <= 10_000:
        raise SettingsError(f"{where}: requests_per_second={rate!r}; accepted: 0 to 10000")
    try:
        base_url = check_base_url(str(table.get("base_url", settings.base_url)))
    except ValueError as error:
        raise SettingsError(f"{where}: base_url: accepted: {error}") from None
    key_env = str(table.get("api_key_env", "QUICKROUTER_API_KEY"))
    key = os.environ.get(key_env) or None
    try:
        key = key and check_api_key(key)
    except ValueError as error:
        raise SettingsError(f"{where}: {key_env}: accepted: {error}") from None
    webhook_url = table.get("webhook_url", settings.webhook_url)
    if not isinstance(webhook_url, str | None):
        raise SettingsError(f"{where}: webhook_url={webhook_url!r}; accepted: a URL")
    return Account(name, base_url, key, float(rate), webhook_url, key_env)


def _check_accounts(settings: Settings) -> None:
    for account in settings.accounts.values():
        if account.webhook_url is None:
            continue
        try:
            check_url(account.webhook_url, settings.allowlist)
        except Refused as error:
            raise SettingsError(f"WEBHOOK_URL (or an account's webhook_url): {error}") from None


def check_signing(settings: Settings) -> None:
    """Raise `SettingsError` if webhooks are sent by default and nothing is there to sign them with.

    For processes that send them. One that only hands in ids needs no secret.
    """
    called = any(account.webhook_url for account in settings.accounts.values())
    if called and not settings.secrets:
        raise SettingsError(
            "WEBHOOK_URL (or an account's webhook_url) is set, WEBHOOK_SECRET is not: webhooks "
            "are signed; accepted: one or more whsec_… (`reelwatch secret` makes one)"
        )


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


def secret_file(database: Path) -> Path:
    """Where `up` keeps the webhook secret it made for an SQLite database."""
    return database.with_name(database.name + ".secret")


def _kept_secrets(database: Path | None) -> tuple[str, ...]:
    if database is None or not secret_file(database).exists():
        return ()
    try:
        return parse_secrets(secret_file(database).read_text("utf-8"))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else f"accepted: {error}"
        raise SettingsError(f"{secret_file(database)} (kept by `up`): {reason}") from None


SECRET_VARIABLES = frozenset(
    {"QUICKROUTER_API_KEY", "WEBHOOK_SECRET", "DATABASE_URL", "BROKER_URL", "REDIS_URL"}
)


def _explain(error: ValidationError) -> str:
    """One line for the first wrong value; secrets and URLs with passwords stay unnamed."""
    first = error.errors()[0]
    accepted = first["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    if not first["loc"]:
        return accepted
    name = str(first["loc"][0])
    # A URL with a password is wrong everywhere, and shown nowhere.
    hidden = name in SECRET_VARIABLES or "@" in str(first["input"])
    shown = "(not shown)" if hidden else repr(first["input"])
    return f"{name}={shown}: accepted: {accepted}"
