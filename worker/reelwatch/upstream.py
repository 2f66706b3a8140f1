"""The API: one look at one job. Every failure to look is a value, never an exception."""

import os
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from urllib.parse import quote

import requests

from reelwatch.accounts import Account
from reelwatch.answers import Answer, ErrorKind, Trouble, interpret
from reelwatch.transport import (
    USER_AGENT,
    BodyTooLarge,
    DeadlinePassed,
    TransferError,
    exchange,
    new_session,
)

ROUTE = "/v1/video/query"
DEADLINE_SECONDS = 15.0  # for everything: name, connection, TLS, headers, body
MAX_BYTES = 4 * 1024 * 1024  # a real answer has a few KiB
POOL_SIZE = 64
MASK = b"[secret]"
KEY_LENGTH = 16  # characters; a shorter key is a made-up one, and part of other words


@dataclass(frozen=True, slots=True)
class Look:
    """What one look brought, and how long it took."""

    answer: Answer
    http_status: int | None
    duration_ms: int


def look(account: Account, video_id: str, now: datetime) -> Look:
    """Ask upstream about `video_id` with the account's key. Never raises for what a peer does.

    `now` is the time that a Retry-After date is measured from.
    """
    started = time.monotonic()
    try:
        reply = exchange(
            session_for(account.base_url, os.getpid()),
            "GET",
            f"{_root(account.base_url)}{ROUTE}?id={quote(video_id, safe='')}",
            headers=_headers(account.api_key or ""),
            deadline_seconds=DEADLINE_SECONDS,
            max_bytes=MAX_BYTES,
        )
    except (TransferError, ValueError) as error:  # ValueError: a proxy or an id that can't be used
        return Look(_trouble(error), None, _milliseconds_since(started))
    body = _without_key(account.api_key, reply.body)
    answer = interpret(video_id, reply.status, reply.headers, body, now)
    return Look(answer, reply.status, _milliseconds_since(started))


def prepare(account: Account) -> None:
    """Make the session that looks need; 64 first looks at once would spend seconds on as many."""
    with suppress(ValueError):  # a proxy that can't be used: every look will say so
        session_for(account.base_url, os.getpid())


@cache
def session_for(base_url: str, pid: int) -> requests.Session:
    """This process's keep-alive session for one upstream; the environment's proxies, read once."""
    proxies = requests.utils.get_environ_proxies(base_url)
    return new_session(pool_size=POOL_SIZE, proxies=dict(proxies))


def _root(base_url: str) -> str:
    """The base URL without the `/v1` at its end that many clients of these relays have there."""
    return base_url.rstrip("/").removesuffix("/v1").rstrip("/")


@cache
def _headers(api_key: str) -> Mapping[str, str]:
    return {
        "Authorization": f"Bearer {api_key}",
        "Accept": "application/json",
        "User-Agent": USER_AGENT,
    }


def _milliseconds_since(started: float) -> int:
    return round((time.monotonic() - started) * 1000)


def _without_key(key: str | None, body: bytes) -> bytes:
    """What was answered, less the key: some relays quote the one they refuse."""
    if not key or len(key) < KEY_LENGTH:
        return body
    return body.replace(key.encode(), MASK)


def _trouble(error: Exception) -> Trouble:
    if isinstance(error, DeadlinePassed):
        return Trouble(ErrorKind.TIMEOUT, str(error))
    if isinstance(error, BodyTooLarge):
        return Trouble(ErrorKind.TOO_LARGE, str(error))
    return Trouble(ErrorKind.CONNECTION, str(error))
