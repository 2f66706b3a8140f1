"""Reelwatch's settings, read from the environment (and a TOML file of accounts) on demand.

Only the documented names are read, as they are spelled, and nothing else of the environment: it may
be a producer's, whose variables mean something else. A wrong value raises `SettingsError` with one
message that names the variable, the value (never a secret's) and what is accepted. Durations are
seconds as floats once read.
"""

import os
from collections.abc import Collection, Iterator, Mapping
from functools import cache, cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    field_validator,
    model_validator,
)
from sqlalchemy.engine import make_url

from reelwatch.config import naming, trust
from reelwatch.config.accounts import (
    DEFAULT_KEY,
    WEBHOOK_SECRET,
    Account,
    check_api_key,
    check_base_url,
    read_accounts,
)
from reelwatch.config.secrecy import secret_file
from reelwatch.config.servers import DATABASE_FORMS, check_broker_url, normal_database_url
from reelwatch.errors import Refused, SettingsError
from reelwatch.rules import spelling, urls
from reelwatch.rules.callback_url import Allowlist, check_url, parse_allowlist
from reelwatch.rules.durations import parse_duration, parse_retry_schedule, parse_webhook_timeout
from reelwatch.rules.timing.pace import TARGET_DELAY
from reelwatch.rules.webhook_secrets import parse_secrets

MEMORY_BROKER = "memory://localhost//"
NO_DATABASE = (
    f"DATABASE_URL is not set: accepted: {DATABASE_FORMS}. Workers, beat and whoever hands in ids "
    "name the database they share; only `reelwatch up` and the commands beside it use "
    f"{urls.DEFAULT_DATABASE} by default"
)


Duration = Annotated[float, BeforeValidator(parse_duration)]
PositiveDuration = Annotated[float, BeforeValidator(parse_duration), Field(gt=0)]
WebhookTimeout = Annotated[float, BeforeValidator(parse_webhook_timeout), Field(gt=0)]


def _env(name: str, default: Any = None, *, secret: bool = False) -> Any:
    return Field(default=default, validation_alias=name, repr=not secret)


class Settings(BaseModel):
    """All settings; `load()` makes one from the environment."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    # Where the variables are that accounts name: a process that hands in ids has no use for them.
    _secrets_in: Mapping[str, str] = PrivateAttr(default_factory=lambda: os.environ)

    database: str | None = _env("DATABASE_URL", secret=True)
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
    webhook_secrets: Annotated[tuple[str, ...], BeforeValidator(parse_secrets)] = _env(
        "WEBHOOK_SECRET", (), secret=True
    )
    webhook_allow: str = _env("WEBHOOK_ALLOW", "")
    webhook_url: str | None = _env("WEBHOOK_URL")
    retry_schedule: Annotated[tuple[float, ...], BeforeValidator(parse_retry_schedule)] = _env(
        "REELWATCH_RETRY_SCHEDULE",
        (5.0, 60.0, 300.0, 1_800.0, 7_200.0, 18_000.0, 36_000.0, 50_400.0, 72_000.0, 86_400.0),
    )
    webhook_timeout: WebhookTimeout = _env("REELWATCH_WEBHOOK_TIMEOUT", 15.0)
    log_format: Literal["console", "json"] | None = _env("LOG_FORMAT")
    log_level: Literal["debug", "info", "warning", "error"] = _env("LOG_LEVEL", "info")

    @field_validator("database")
    @classmethod
    def _known_database(cls, value: str | None) -> str | None:
        return value and normal_database_url(value).render_as_string(hide_password=False)

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
                f"REELWATCH_POLL_MAX={self.poll_max:g}: it must not be greater"
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
        return self.webhook_secrets or _kept_secrets(self.sqlite_path)

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
        return {"default": default} | read_accounts(self.accounts_file, default, self._secrets_in)

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


NAMES = frozenset(str(field.validation_alias) for field in Settings.model_fields.values())
# What a process that only hands in ids has no use for. These may be its own: a LOG_LEVEL of another
# logger, a BROKER_URL of a kind that Reelwatch does not know.
WORKERS_ONLY = frozenset(
    {"BROKER_URL", "REDIS_URL", "LOG_FORMAT", "LOG_LEVEL", "WEBHOOK_SECRET", DEFAULT_KEY}
)


def load(names: Collection[str] = NAMES) -> Settings:
    """The settings of the environment as it is now, of these variables. Raises `SettingsError`."""
    given = {name: value for name in names if (value := os.environ.get(name))}
    try:
        settings = Settings.model_validate(given)
    except ValidationError as error:
        raise SettingsError(_explain(error, given)) from None
    if not set(names) >= WORKERS_ONLY:
        settings._secrets_in = {}
    _check_accounts(settings)
    _check_place()
    return settings


@cache
def current(names: frozenset[str] = NAMES) -> Settings:
    """The settings of this process, read once. Raises `SettingsError`."""
    return load(names)


def handing_in() -> Settings:
    """What `track()` and its like need in anybody's process; the same as `current()` in ours."""
    return current(NAMES - WORKERS_ONLY)


def _check_accounts(settings: Settings) -> None:
    for account in settings.accounts.values():
        if account.webhook_url is None:
            continue
        try:
            check_url(account.webhook_url, settings.allowlist)
        except Refused as error:
            raise SettingsError(f"WEBHOOK_URL (or an account's webhook_url): {error}") from None


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
    lacking = [NO_DATABASE] * (settings.database is None)
    return (
        lacking
        + [
            "WEBHOOK_URL (or an account's webhook_url) is set, WEBHOOK_SECRET is not: webhooks are "
            "signed; accepted: one or more whsec_… (`reelwatch secret` makes one)"
        ]
        * unsigned
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


def _kept_secrets(database: Path | None) -> tuple[str, ...]:
    if database is None or not secret_file(database).exists():
        return ()
    try:
        kept = parse_secrets(secret_file(database).read_text("utf-8"))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else f"accepted: {error}"
        raise SettingsError(f"{secret_file(database)} (kept by `up`): {reason}") from None
    if not kept:  # the machine went down while it was made: nothing was signed with it
        raise SettingsError(f"{secret_file(database)} (kept by `up`): it is empty, delete it")
    return kept


SECRET_VARIABLES = frozenset(
    {"QUICKROUTER_API_KEY", "WEBHOOK_SECRET", "DATABASE_URL", "BROKER_URL", "REDIS_URL"}
)


def _explain(error: ValidationError, given: Mapping[str, str]) -> str:
    """One line for the first wrong value; secrets and URLs with passwords stay unnamed."""
    first = error.errors()[0]
    accepted = first["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    if not first["loc"]:
        return accepted
    name = str(first["loc"][0])
    value = given[name]  # as it was written; pydantic has some of them converted already
    # A URL with a password is wrong everywhere, and shown nowhere.
    hidden = name in SECRET_VARIABLES or "@" in value
    shown = "(not shown)" if hidden else repr(value)
    if name == "WEBHOOK_ALLOW":  # which of its entries is wrong, not what is accepted
        return f"{name}={shown}: {accepted}"
    return f"{name}={shown}: accepted: {accepted}"
