"""Who is asking, and whether they may: bearer tokens for programs, a cookie for browsers.

Without a token in REELWATCH_API_TOKENS everybody who gets past `reelwatch.web.gate` may do all;
it lets nobody in then but this machine's own programs and pages.
"""

import hashlib
import hmac
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from fastapi import Depends, Request, Response, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from reelwatch.config.settings import Settings
from reelwatch.config.tokens import OPERATE, ApiToken
from reelwatch.web.problems import Problem
from reelwatch.web.queries import check_query

Role = Literal["read", "produce", "operate"]

COOKIE = "reelwatch_session"
PAGE_ROLES = ("read", OPERATE)  # whoever only produces has no page
COOKIE_SECONDS = 12 * 3_600  # how long somebody stays signed in
SIGN_IN = "/sign-in"

BEARER = HTTPBearer(auto_error=False, description="A token of REELWATCH_API_TOKENS")
Credentials = Annotated[HTTPAuthorizationCredentials | None, Security(BEARER)]


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks: a token's name, or `local` where there are no tokens."""

    name: str
    role: str

    @property
    def may_act(self) -> bool:
        """May they redeliver, pause and do whatever else there is?"""
        return self.role == OPERATE


LOCAL = Caller("local", OPERATE)


class SignInNeeded(Exception):
    """A page was asked for by a browser that nobody has signed in with."""


def settings_of(request: Request) -> Settings:
    """The settings that the app was made with."""
    found: Settings = request.app.state.settings
    return found


def require(*roles: Role) -> Callable[..., Awaitable[Caller]]:
    """For programs: a dependency that gives the caller, who has one of the roles, or `operate`.

        @router.get("/api/v1/accounts")
        def accounts(caller: Annotated[Caller, Depends(require("read"))]) -> …

    Raises `Problem`: 401 without a token that is known, 403 without the role.
    """

    async def caller(request: Request, given: Credentials) -> Caller:
        tokens = settings_of(request).api_tokens
        found = by_token(tokens, given.credentials) if given else None
        if tokens and found is None:
            said = "this token is not known" if given else "a token is needed"
            raise Problem(
                401,
                f"{said}: Authorization: Bearer TOKEN, one of REELWATCH_API_TOKENS",
                headers={"WWW-Authenticate": "Bearer"},
            )
        admitted_as = admitted(found or LOCAL, roles)
        check_query(request)
        return admitted_as

    return caller


def require_page(*roles: Role) -> Callable[..., Awaitable[Caller]]:
    """For browsers: the same by the cookie of who has signed in, or by a token.

    Who has not is sent to the form where a token is typed in.
    """

    async def caller(request: Request, given: Credentials) -> Caller:
        tokens = settings_of(request).api_tokens
        if not tokens:
            return admitted(LOCAL, roles)
        if given:
            found = by_token(tokens, given.credentials)
        else:
            found = by_cookie(tokens, request.cookies.get(COOKIE, ""), time.time())
        if found is None:
            raise SignInNeeded
        return admitted(found, roles)

    return caller


def admitted(caller: Caller, roles: Sequence[str]) -> Caller:
    """The caller, if the role suffices. Raises `Problem`."""
    if caller.role in (*roles, OPERATE):
        return caller
    raise Problem(
        403, f"the role of {caller.name!r} is {caller.role}; {_either(roles)} is needed for this"
    )


def _either(roles: Sequence[str]) -> str:
    return " or ".join(dict.fromkeys((*roles, OPERATE)))


def by_token(tokens: Sequence[ApiToken], token: str) -> Caller | None:
    """Whose token it is. All are compared, each in the same time whatever they have in common."""
    given, found = _digest(token), None
    for each in tokens:
        if hmac.compare_digest(given, _digest(each.token)):
            found = Caller(each.name, each.role)
    return found


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


# ----------------------------------------------------------- the cookie of browsers


def by_cookie(tokens: Sequence[ApiToken], cookie: str, now: float) -> Caller | None:
    """Who has signed in with that cookie, if not too long ago and the token is still the same."""
    name, _, rest = cookie.partition("|")
    until, _, seal = rest.partition("|")
    found = None
    for each in tokens:
        same = hmac.compare_digest(seal.encode(), _seal(each, until).encode())
        if same and each.name == name and now < float(until):
            found = Caller(each.name, each.role)
    return found


def sign_in(
    response: Response, tokens: Sequence[ApiToken], token: str, *, https: bool
) -> Caller | None:
    """Give a browser the cookie of this token's caller; None if no page is for that token.

    The cookie does not hold the token: it is worth nothing once that has been changed.
    """
    caller = by_token(tokens, token)
    if caller is None or caller.role not in PAGE_ROLES:
        return None
    [its] = [each for each in tokens if each.name == caller.name]
    until = str(int(time.time()) + COOKIE_SECONDS)
    value = f"{caller.name}|{until}|{_seal(its, until)}"
    response.set_cookie(
        COOKIE, value, COOKIE_SECONDS, httponly=True, samesite="strict", secure=https
    )
    return caller


def sign_out(response: Response) -> None:
    """Take the cookie away."""
    response.delete_cookie(COOKIE, httponly=True, samesite="strict")


def _seal(token: ApiToken, until: str) -> str:
    said = f"{COOKIE}|{token.name}|{until}".encode()
    return hmac.new(token.token.encode(), said, hashlib.sha256).hexdigest()


ReadCaller = Annotated[Caller, Depends(require("read"))]
JobsReadCaller = Annotated[Caller, Depends(require("read", "produce"))]
ProduceCaller = Annotated[Caller, Depends(require("produce"))]
OperateCaller = Annotated[Caller, Depends(require("operate"))]
