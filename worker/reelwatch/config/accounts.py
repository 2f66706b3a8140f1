"""The upstream accounts: `default` of the variables, and those of REELWATCH_ACCOUNTS_FILE."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reelwatch.errors import SettingsError
from reelwatch.rules.spelling import nearest
from reelwatch.rules.webhook_secrets import PREFIX, parse_secrets

DEFAULT_KEY = "QUICKROUTER_API_KEY"
ACCOUNT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
API_KEY = re.compile(r"[!-~]+")  # what a header can hold
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
FIELDS = ("base_url", "api_key_env", "requests_per_second", "webhook_url", "webhook_secret_env")
WEBHOOK_SECRET = "WEBHOOK_SECRET"  # noqa: S105 - the variable's name


@dataclass(frozen=True, slots=True)
class Account:
    """One upstream key and how it may be used. The key and the secrets stay out of `repr`.

    `webhook_secrets` has what stands in `webhook_secret_env`, where the account names that.
    """

    name: str
    base_url: str
    api_key: str | None
    requests_per_second: float
    webhook_url: str | None = None
    api_key_env: str = DEFAULT_KEY
    webhook_secret_env: str | None = None
    webhook_secrets: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"Account({self.name!r}, {self.base_url!r})"


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


def _host(base_url: str) -> str:
    """Scheme, host and port."""
    return "/".join(base_url.lower().split("/")[:3])


def read_accounts(path: Path, default: Account, environ: Mapping[str, str]) -> dict[str, Account]:
    """The accounts of a TOML file by name; what one leaves out it has from `default`.

    But never the key of another host: who names a `base_url` of their own names `api_key_env` too.
    Raises `SettingsError`, which names the file and the account.
    """
    import tomllib  # noqa: PLC0415 - many have no such file

    where = f"REELWATCH_ACCOUNTS_FILE={path}"
    try:
        document = tomllib.loads(path.read_text("utf-8-sig"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        said = error.strerror if isinstance(error, OSError) else error
        raise SettingsError(f"{where}: {said}") from None
    _check_names(where, document, ("accounts",), "[accounts.NAME]")
    tables = document.get("accounts", {})
    if not isinstance(tables, dict):
        raise SettingsError(f"{where}: accounts is no table; accepted: [accounts.NAME]")
    return {name: _Reader(where, name, default, environ).read(tables[name]) for name in tables}


def _check_names(
    where: str, table: Mapping[str, Any], known: Collection[str], accepted: str
) -> None:
    for name in table:
        if name not in known:
            near = nearest(name, known)
            meant = f" (is {near!r} meant?)" if near else ""
            raise SettingsError(f"{where}: {name!r} is unknown{meant}; accepted: {accepted}")


@dataclass(frozen=True, slots=True)
class _Reader:
    """Reads one table, and says where something is wrong."""

    file: str
    name: str
    default: Account
    environ: Mapping[str, str]

    @property
    def _where(self) -> str:
        return f"{self.file}: [accounts.{self.name}]"

    def read(self, table: object) -> Account:
        """The account. Raises `SettingsError`."""
        if not ACCOUNT_NAME.fullmatch(self.name):
            accepted = "a name has letters, digits, '.', '_', '-', at most 64"
            raise SettingsError(f"{self._where}: {accepted}")
        if not isinstance(table, dict):
            raise SettingsError(f"{self._where}: no table; accepted: {', '.join(FIELDS)}")
        _check_names(self._where, table, FIELDS, ", ".join(FIELDS))
        base_url = self._base_url(self._text(table, "base_url", self.default.base_url, "a URL"))
        variable = self._key_variable(table, base_url)
        secret_variable = self._secret_variable(table)
        return Account(
            self.name,
            base_url,
            self._key(variable),
            self._rate(table.get("requests_per_second", self.default.requests_per_second)),
            self._text(table, "webhook_url", self.default.webhook_url, "a URL"),
            variable,
            secret_variable,
            self._secrets(secret_variable),
        )

    def _text(self, table: Mapping[str, Any], field: str, default: Any, accepted: str) -> Any:
        value = table.get(field, default)
        if field in table and (not isinstance(value, str) or not value):
            raise SettingsError(f"{self._where}: {field}={value!r}; accepted: {accepted}")
        return value

    def _base_url(self, value: str) -> str:
        try:
            return check_base_url(value)
        except ValueError as error:
            raise SettingsError(f"{self._where}: base_url: accepted: {error}") from None

    def _key_variable(self, table: Mapping[str, Any], base_url: str) -> str:
        given = self._text(table, "api_key_env", None, "the name of a variable")
        variable = given or self.default.api_key_env
        known = base_url == self.default.base_url
        if given:  # it may be said for another path of the same host
            known = _host(base_url) == _host(self.default.base_url)
        if variable == self.default.api_key_env and not known:
            raise SettingsError(
                f"{self._where}: a base_url of its own needs an api_key_env of its own: the key in "
                f"{variable} is for {self.default.base_url} alone"
            )
        return self._variable("api_key_env", variable, "STUDIO_KEY")

    def _secret_variable(self, table: Mapping[str, Any]) -> str | None:
        given = self._text(table, "webhook_secret_env", None, "the name of a variable")
        return given and self._variable("webhook_secret_env", given, "STUDIO_WEBHOOK_SECRET")

    def _variable(self, field: str, name: str, example: str) -> str:
        if not VARIABLE.fullmatch(name) or name.casefold().startswith(PREFIX):
            # Not shown: it may be the key or secret itself.
            raise SettingsError(
                f"{self._where}: {field}; accepted: the name of a variable, such as {example}"
            )
        return name

    def _secrets(self, variable: str | None) -> tuple[str, ...]:
        try:
            return parse_secrets(self.environ.get(variable, "")) if variable else ()
        except ValueError as error:
            raise SettingsError(f"{self._where}: {variable}: accepted: {error}") from None

    def _key(self, variable: str) -> str | None:
        key = self.environ.get(variable) or None
        try:
            return key and check_api_key(key)
        except ValueError as error:
            raise SettingsError(f"{self._where}: {variable}: accepted: {error}") from None

    def _rate(self, rate: Any) -> float:
        if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 < rate <= 10_000:
            accepted = "accepted: more than 0, at most 10000"
            raise SettingsError(f"{self._where}: requests_per_second={rate!r}; {accepted}")
        return float(rate)
