"""The API: one poll of one job. Every failure to poll is a value, never an exception."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from urllib.parse import quote
from urllib.request import getproxies

from reelwatch.config.accounts import Account
from reelwatch.net.http import (
    USER_AGENT,
    BodyTooLarge,
    Client,
    DeadlinePassed,
    Outcome,
    Request,
    TransferError,
)
from reelwatch.rules.answers import Answer, AnswerError, ErrorKind, interpret

ROUTE = "/v1/video/query"
DEADLINE_SECONDS = 15.0  # for everything: name, connection, TLS, headers, body
MAX_BYTES = 4 * 1024 * 1024  # a real answer has a few KiB
MASK = b"[secret]"
KEY_LENGTH = 16  # characters; a shorter key is a made-up one, and part of other words


@dataclass(frozen=True, slots=True)
class Poll:
    """What one poll brought, and how long it took."""

    answer: Answer
    http_status: int | None
    duration_ms: int


def poll(account: Account, video_id: str, now: datetime) -> Poll:
    """Ask upstream about `video_id` with the account's key. Never raises for what a peer does.

    `now` is the time that a Retry-After date is measured from.
    """
    outcome: Outcome
    try:
        outcome = client_for(account.base_url, os.getpid()).ask(request(account, video_id))
    except TransferError as error:
        outcome = error
    except ValueError as error:  # a proxy that can't be used
        outcome = TransferError(str(error))
    return poll_of(account, video_id, outcome, now)


def request(account: Account, video_id: str) -> Request:
    """What asks upstream about `video_id` with the account's key."""
    return Request(
        f"{_root(account.base_url)}{ROUTE}?id={quote(video_id, safe='')}",
        headers=_headers(account.api_key or ""),
        deadline_seconds=DEADLINE_SECONDS,
        max_bytes=MAX_BYTES,
    )


def poll_of(account: Account, video_id: str, outcome: Outcome, now: datetime) -> Poll:
    """What has come of a request, as a poll; `now` as in `poll`."""
    if isinstance(outcome, TransferError):
        return Poll(_error(outcome), None, round(outcome.elapsed_seconds * 1000))
    body = _without_key(account.api_key, outcome.body)
    answer = interpret(video_id, outcome.status, outcome.headers, body, now)
    return Poll(answer, outcome.status, round(outcome.elapsed_seconds * 1000))


@cache
def client_for(base_url: str, pid: int) -> Client:
    """This process's client for one upstream; the environment's proxies, read once.

    Raises ValueError for a proxy or certificates that can't be used.
    """
    return Client(proxies=_proxies(base_url) if getproxies() else None)


def _proxies(base_url: str) -> dict[str, str]:
    """Those of the environment, but for one that has this host among its exceptions."""
    from requests.utils import get_environ_proxies  # noqa: PLC0415 - 5 MiB, and most have no proxy

    return get_environ_proxies(base_url)


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


def _without_key(key: str | None, body: bytes) -> bytes:
    """What was answered, less the key: some relays quote the one they refuse."""
    if not key or len(key) < KEY_LENGTH:
        return body
    return body.replace(key.encode(), MASK)


def _error(error: TransferError) -> AnswerError:
    if isinstance(error, DeadlinePassed):
        return AnswerError(ErrorKind.TIMEOUT, str(error))
    if isinstance(error, BodyTooLarge):
        return AnswerError(ErrorKind.TOO_LARGE, str(error))
    return AnswerError(ErrorKind.CONNECTION, str(error))
