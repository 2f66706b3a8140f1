"""Looks that brought no word about the job: their kinds, and how error bodies are told apart. Pure.

The kind decides who is to blame: the account's key, the load, the id, or nobody. A text in an error
says more than its HTTP status, and a page that is no JSON says nothing but that a proxy made it.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from reelwatch.cleaning import Json, dict_or_empty, excerpt, retry_after

CODE_LIMIT = 100  # characters of an error code that are compared
PAGE_EXCERPT = 300  # characters of a page that is no JSON
WRAPPED_LIMIT = 16_384  # a longer text is not searched for an error inside it
REQUEST_IDS_LIMIT = 255  # characters; the column's size

QUOTA_CODES = frozenset({"insufficient_user_quota", "pre_consume_token_quota_failed"})
NOT_FOUND_CODES = frozenset({"task_not_exist"})
RELAY_FAILURE_CODES = frozenset({"fail_to_fetch_task"})  # the relay could not ask; comes with 403
SATURATION = re.compile(r"饱和|saturated", re.IGNORECASE)
QUOTA_TEXT = re.compile(
    r"额度不足|insufficient[_ ]user[_ ]quota|quota is not enough", re.IGNORECASE
)
INVALID_TOKEN = re.compile(r"无效的令牌|invalid token|该令牌", re.IGNORECASE)
WRONG_ROUTE = re.compile(r"invalid url", re.IGNORECASE)
# ASCII: the id may stand between Chinese characters, which would count as its letters.
REQUEST_ID = re.compile(r"\s*\(?\brequest[ _]id:\s*([\w.-]{4,128})\)?", re.IGNORECASE | re.ASCII)


class ErrorKind(StrEnum):
    """The kinds of `poll_errors` rows."""

    UNAUTHORIZED = "unauthorized"
    FORBIDDEN = "forbidden"
    QUOTA = "quota"
    RATE_LIMITED = "rate_limited"
    SATURATED = "saturated"
    SERVER_ERROR = "server_error"
    NOT_FOUND = "not_found"
    NOT_JSON = "not_json"
    BAD_SHAPE = "bad_shape"
    TOO_LARGE = "too_large"
    TIMEOUT = "timeout"
    CONNECTION = "connection"


@dataclass(frozen=True, slots=True)
class Trouble:
    """A look that brought no word about the job."""

    kind: ErrorKind
    message: str
    http_status: int | None = None
    request_id: str | None = None
    retry_after: float | None = None  # seconds
    body: Json = None


def without_json(status: int, headers: Mapping[str, str], body: bytes, now: datetime) -> Trouble:
    """The trouble of an answer whose body is empty, or no JSON."""
    text = body.decode("utf-8", "replace").strip()
    kind = _kind_without_json(status, text)
    message = excerpt(text)[:PAGE_EXCERPT] if text else f"empty answer with status {status}"
    return _trouble(kind, message, status, retry_after(headers.get("Retry-After"), now))


def with_error_status(
    status: int, headers: Mapping[str, str], document: Json, now: datetime
) -> Trouble:
    """The trouble of an answer with an HTTP status that is no success, and JSON."""
    document = document if isinstance(document, dict) else {"message": document}
    message = error_message(document) or f"HTTP status {status}"
    kind = _error_kind(status, _code(document), message)
    return _trouble(kind, message, status, retry_after(headers.get("Retry-After"), now), document)


def with_good_status(
    status: int, document: dict[str, Json], otherwise: ErrorKind, silent: str
) -> Trouble:
    """The trouble of a 2xx answer that holds an error: never the end of a job by itself.

    `otherwise` is its kind where its words tell none, `silent` its message where it has none.
    """
    message = error_message(document) or silent
    kind = _worded_kind(_code(document), message) or otherwise
    return _trouble(kind, message, status, None, document)


def error_message(document: dict[str, Json]) -> str:
    """The error text of any of the known forms, JSON inside a string unwrapped."""
    error = document.get("error")
    inner = dict_or_empty(error).get("message")
    for value in (inner, error, document.get("message"), document.get("code")):
        if isinstance(value, str) and value.strip():
            return excerpt(_unwrapped_text(value))
    return ""


def request_ids(text: str) -> str | None:
    """The request ids that the relay put into a text: what its support asks for."""
    found = dict.fromkeys(REQUEST_ID.findall(text))
    return ", ".join(found)[:REQUEST_IDS_LIMIT] or None


def _kind_without_json(status: int, text: str) -> ErrorKind:
    if status == 429:
        return ErrorKind.SATURATED if SATURATION.search(text) else ErrorKind.RATE_LIMITED
    if text:  # a proxy's page (nginx, Cloudflare) comes with any status and says nothing of the key
        return ErrorKind.SERVER_ERROR if status >= 500 else ErrorKind.NOT_JSON
    return _kind_of_status(status) if not 200 <= status < 300 else ErrorKind.NOT_JSON


def _error_kind(status: int, code: str, message: str) -> ErrorKind:
    if status == 401:
        return ErrorKind.UNAUTHORIZED
    if status in (404, 400) and code in NOT_FOUND_CODES:
        return ErrorKind.NOT_FOUND
    if status == 404 and WRONG_ROUTE.search(message):  # the base URL is wrong, not the id
        return ErrorKind.BAD_SHAPE
    if status == 400 and any(known in message.casefold() for known in NOT_FOUND_CODES):
        return ErrorKind.NOT_FOUND
    return _worded_kind(code, message) or _kind_of_status(status)


def _worded_kind(code: str, message: str) -> ErrorKind | None:
    """The kind of an error whose code or text says more than its HTTP status."""
    if SATURATION.search(code) or SATURATION.search(message):
        return ErrorKind.SATURATED
    if code in QUOTA_CODES or QUOTA_TEXT.search(message):
        return ErrorKind.QUOTA
    if INVALID_TOKEN.search(message):
        return ErrorKind.UNAUTHORIZED
    return ErrorKind.SERVER_ERROR if code in RELAY_FAILURE_CODES else None


def _kind_of_status(status: int) -> ErrorKind:
    named = {
        401: ErrorKind.UNAUTHORIZED,
        402: ErrorKind.QUOTA,
        403: ErrorKind.FORBIDDEN,
        404: ErrorKind.NOT_FOUND,
        408: ErrorKind.SERVER_ERROR,
        429: ErrorKind.RATE_LIMITED,
    }
    return named.get(status) or (ErrorKind.SERVER_ERROR if status >= 500 else ErrorKind.BAD_SHAPE)


def _trouble(
    kind: ErrorKind, message: str, status: int, wait: float | None, body: Json = None
) -> Trouble:
    """A trouble whose message holds no request ids, so that equal errors fold; they stand apart."""
    text = excerpt(REQUEST_ID.sub("", message).strip()) or kind.value
    return Trouble(kind, text, status, request_ids(message), wait, body)


def _code(document: dict[str, Json]) -> str:
    error = dict_or_empty(document.get("error"))
    value = error.get("code") or document.get("code") or error.get("type")
    return value[:CODE_LIMIT].casefold() if isinstance(value, str) else ""


def _unwrapped_text(text: str) -> str:
    """The text, with an error that the relay put into it as JSON replaced by that error's text."""
    start = text.find("{")
    if start < 0 or len(text) > WRAPPED_LIMIT:
        return text
    try:
        inner, end = json.JSONDecoder().raw_decode(text, start)
    except (ValueError, RecursionError):
        return text
    message = error_message(inner)
    return text[:start] + message + text[end:] if message else text
