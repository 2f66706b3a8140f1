"""The secrets that webhooks are signed with, as they are written in a variable. Pure."""

from base64 import b64decode

ACCEPTED = "whsec_ and base64 of 24 to 64 bytes (`reelwatch secret` makes one)"
PREFIX = "whsec_"


def parse_secrets(value: object) -> tuple[str, ...]:
    """The `whsec_…` secrets of a space-separated list, newest first; else ValueError."""
    secrets = tuple(value if isinstance(value, tuple | list) else str(value).split())
    for secret in secrets:
        _check(secret)
    return secrets


def _check(secret: str) -> None:
    if not secret.startswith(PREFIX):
        raise ValueError(ACCEPTED)
    try:
        # Strictly: decoders that skip foreign characters would each sign with another key.
        key = b64decode(secret.removeprefix(PREFIX), validate=True)
    except ValueError:
        raise ValueError(ACCEPTED) from None
    if not 24 <= len(key) <= 64:
        raise ValueError(ACCEPTED)
