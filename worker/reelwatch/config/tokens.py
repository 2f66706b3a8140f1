"""Who may use the HTTP API: names, roles and tokens, as REELWATCH_API_TOKENS has them."""

import re
from dataclasses import dataclass, field

READ, PRODUCE, OPERATE = ROLES = ("read", "produce", "operate")
NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
TOKEN = re.compile(r"[A-Za-z0-9._~+/=-]{16,200}")  # what a header's value can hold
ACCEPTED = (
    "one or more NAME:ROLE:TOKEN, separated by blanks; a role is read, produce or operate, a token "
    "16 to 200 letters, digits and ._~+/=- (`reelwatch secret --token NAME:ROLE` makes one)"
)


@dataclass(frozen=True, slots=True)
class ApiToken:
    """One caller of the API; its token is in no text that is made of it."""

    name: str
    role: str
    token: str = field(repr=False)


def parse_tokens(value: str | tuple[ApiToken, ...]) -> tuple[ApiToken, ...]:
    """The tokens in a variable's value. Raises `ValueError`, whose text shows none of them."""
    if isinstance(value, tuple):
        return value
    tokens = tuple(map(_parsed, value.split()))
    for what in ("name", "token"):
        if len({getattr(each, what) for each in tokens}) < len(tokens):
            raise ValueError(f"{ACCEPTED}; each {what} once")
    return tokens


def _parsed(text: str) -> ApiToken:
    name, _, rest = text.partition(":")
    role, _, token = rest.partition(":")
    if not (NAME.fullmatch(name) and role in ROLES and TOKEN.fullmatch(token)):
        raise ValueError(ACCEPTED)
    return ApiToken(name, role, token)
