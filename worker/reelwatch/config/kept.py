"""The secrets that `up` made and keeps in a file beside its database."""

from pathlib import Path

from reelwatch.config.secrecy import secret_file
from reelwatch.errors import SettingsError
from reelwatch.rules.webhook_secrets import parse_secrets


def kept_secrets(database: Path | None) -> tuple[str, ...]:
    """The secrets beside this database; none where there are none. Raises `SettingsError`."""
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
