"""Are the URLs that settings name for webhooks, and for the operator, accepted?"""

from collections.abc import Iterable

from reelwatch.errors import Refused, SettingsError
from reelwatch.rules.callback_url import Allowlist, check_url

OF_ACCOUNTS = "WEBHOOK_URL (or an account's webhook_url)"
UNSIGNED = (
    "is set, WEBHOOK_SECRET is not: webhooks are signed; accepted: one or more whsec_… "
    "(`reelwatch secret` makes one)"
)


def check(named: Iterable[tuple[str, str | None]], allowlist: Allowlist) -> None:
    """Raise `SettingsError`, with its name, for the first that is not."""
    for name, url in named:
        try:
            _ = url and check_url(url, allowlist)
        except Refused as error:
            raise SettingsError(f"{name}=(not shown): {error}") from None  # it may hold a token
