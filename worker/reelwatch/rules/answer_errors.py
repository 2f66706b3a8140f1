"""Polls that told no status of the job: their kinds, and how error bodies are told apart. Pure.

The kind decides who is to blame: the account's key, the load, the id, or nobody. A text in an error
says more than its HTTP status, and a page that is no JSON says nothing but that a proxy made it.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum

from reelwatch.rules.cleaning import Json, asked_to_wait, dict_or_empty, excerpt

CODE_LIMIT = 100  # characters of an error code that are compared
PAGE_EXCERPT = 300  # characters of a page that is no JSON
WRAPPED_LIMIT = 16_384  # a longer text is not searched for an error inside it
REQUEST_IDS_LIMIT = 255  # characters; the column's size

# Where an object, an error's or an answer's, has its text.
TEXT_KEYS = (
    "message", "error", "error_message", "error_msg", "err_msg", "fail_reason", "failure_reason",
    "msg", "errors", "reason", "detail", "text",
)  # fmt: skip
TEXT_DEPTH = 3

QUOTA_CODES = frozenset({"insufficient_user_quota", "pre_consume_token_quota_failed"})
RATE_CODES = frozenset({"rate_limit_exceeded", "too_many_requests"})
RELAY_FAILURE_CODES = frozenset({"fail_to_fetch_task"})  # the relay could not ask; comes with 403
SATURATION = re.compile(r"饱和|saturated", re.IGNORECASE)
QUOTA_TEXT = re.compile(
    r"额度不足|insufficient[_ ]user[_ ]quota|quota is not enough", re.IGNORECASE
)
RATE_TEXT = re.compile(r"too many requests|rate limit|请求过于频繁|请求频率", re.IGNORECASE)
# Of our key only if the relay itself says so: a channel behind it has tokens too, and so has JSON.
INVALID_TOKEN = re.compile(r"无效的令牌|invalid token|该令牌", re.IGNORECASE)
OWN_ERROR_TYPE = "new_api_error"
# With the model's name: without one the relay has not found out which it is, and refuses all jobs.
MODEL_ACCESS = re.compile(
    r"no access to (?:the )?model[ :]+[`'\"]?\w|无权访问(?:该)?模型\s*\w", re.IGNORECASE
)
# All ways to say that an id is unknown: a model or a page that is not found is another matter.
UNKNOWN_ID = re.compile(
    r"\btask[ _](?:id[ _])?(?:(?:is|was|does|do)[ _])?not[ _](?:exist|found)"
    r"|任务不存在|no such task",
    re.IGNORECASE,
)
# What goes into one job, or is done for it; and what stops all jobs alike, whatever it speaks of.
OF_ONE_JOB = re.compile(
    r"asset|image|upload|prompt|moderat|guardrail|violat|generation failed", re.IGNORECASE
)
OF_MANY = re.compile(
    r"unavailable|busy|overload|maintenance|time[d ]?out|try again|internal|gateway|connect"
    r"|network|service|server|model",
    re.IGNORECASE,
)
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


# Those that may be about the account rather than the job.
ACCOUNT_PAUSES = frozenset({ErrorKind.UNAUTHORIZED, ErrorKind.FORBIDDEN, ErrorKind.QUOTA})
ACCOUNT_SLOWS = frozenset({ErrorKind.RATE_LIMITED, ErrorKind.SATURATED})
ACCOUNT_KINDS = ACCOUNT_PAUSES | ACCOUNT_SLOWS

# What a kind means, for somebody who meets its name for the first time.
MEANINGS: Mapping[str, str] = {
    "unauthorized": "upstream refused the account's key",
    "forbidden": "upstream denied access",
    "quota": "the account's quota is used up",
    "rate_limited": "upstream asked to slow down",
    "saturated": "upstream is overloaded",
    "server_error": "upstream had an error of its own",
    "not_found": "upstream did not know the id",
    "not_json": "the answer was no JSON",
    "bad_shape": "the answer was odd",
    "too_large": "the answer was too large",
    "timeout": "no answer in time",
    "connection": "upstream could not be reached",
}


@dataclass(frozen=True, slots=True)
class AnswerError:
    """A poll that told no status of the job."""

    kind: ErrorKind
    message: str
    http_status: int | None = None
    request_id: str | None = None
    retry_after: float | None = None  # seconds
    body: Json = None
    about_the_job: bool = False  # its text is: repeated often enough, it is the job's end
    of_its_model: bool = False  # refused for that alone: other models' jobs are not


def without_json(
    http_status: int, headers: Mapping[str, str], body: bytes, now: datetime
) -> AnswerError:
    """The error of an answer whose body is empty, or no JSON."""
    text = body.decode("utf-8", "replace").strip()
    kind = _kind_without_json(http_status, text)
    message = excerpt(text)[:PAGE_EXCERPT] if text else f"empty answer with status {http_status}"
    return _error(kind, message, http_status, asked_to_wait(headers, now))


def with_error_status(
    http_status: int, headers: Mapping[str, str], document: Json, now: datetime
) -> AnswerError:
    """The error of an answer with an HTTP status that is no success, and JSON."""
    document = document if isinstance(document, dict) else {"message": document}
    message = (
        error_message(document) or text_of(document.get("detail")) or f"HTTP status {http_status}"
    )
    of_its_model = http_status in (401, 403) and MODEL_ACCESS.search(message) is not None
    kind = ErrorKind.FORBIDDEN if of_its_model else _error_kind(http_status, document, message)
    error = _error(kind, message, http_status, asked_to_wait(headers, now), document)
    return replace(error, of_its_model=of_its_model)


def with_good_status(http_status: int, document: dict[str, Json], silent: str) -> AnswerError:
    """The error of a 2xx answer that holds an error: never the end of a job by itself.

    `silent` is its message where it has none.
    """
    message = error_message(document) or silent
    kind = worded_kind(http_status, document, message) or ErrorKind.BAD_SHAPE
    return _error(kind, message, http_status, None, document)


def failed_look_up(http_status: int, document: dict[str, Json], status: str) -> AnswerError:
    """The error of a 2xx answer whose final status is about no job.

    What it says counts, whether about the account or about the id. `error` without a reason is how
    the relay documents an id that it does not know; with a text that can only be about one job it
    may be that one's end.
    """
    message = error_message(document)
    kind = worded_kind(http_status, document, message)
    if kind is None and (UNKNOWN_ID.search(message) or (status == "error" and not message)):
        kind = ErrorKind.NOT_FOUND
    told = message or f"status: {status}"
    error = _error(kind or ErrorKind.BAD_SHAPE, told, http_status, None, document)
    about = kind is None and status == "error" and OF_ONE_JOB.search(message) is not None
    return replace(error, about_the_job=about and OF_MANY.search(message) is None)


def error_message(document: dict[str, Json]) -> str:
    """The error text of any of the known forms, JSON inside a string unwrapped."""
    keys = ("error", *(key for key in TEXT_KEYS if key != "detail"), "code")
    return next(filter(None, map(text_of, map(document.get, keys))), "")


def text_of(error: Json, depth: int = 0) -> str:
    """The text of an error: it is one, an object that has one, or a list of such."""
    if isinstance(error, str):
        return excerpt(_unwrapped_text(error)) if error.strip() else ""
    if depth > TEXT_DEPTH or not isinstance(error, dict | list):
        return ""
    parts = map(error.get, TEXT_KEYS) if isinstance(error, dict) else error
    texts = filter(None, (text_of(part, depth + 1) for part in parts))
    return next(texts, "") if isinstance(error, dict) else excerpt("; ".join(texts))


def request_ids(text: str) -> str | None:
    """The request ids that the relay put into a text: what its support asks for."""
    found = dict.fromkeys(REQUEST_ID.findall(text))
    return ", ".join(found)[:REQUEST_IDS_LIMIT] or None


def worded_kind(http_status: int, document: dict[str, Json], message: str) -> ErrorKind | None:
    """The kind of an error whose code or text says more than its HTTP status."""
    code = _code(document)
    if SATURATION.search(code) or SATURATION.search(message):
        return ErrorKind.SATURATED
    if code in QUOTA_CODES or QUOTA_TEXT.search(message):
        return ErrorKind.QUOTA
    if code in RELAY_FAILURE_CODES:  # what its message says, somebody said to the relay
        return ErrorKind.SERVER_ERROR
    if http_status < 500 and INVALID_TOKEN.search(message) and _is_ours(http_status, document):
        return ErrorKind.UNAUTHORIZED
    if http_status < 500 and (code in RATE_CODES or RATE_TEXT.search(message)):
        return ErrorKind.RATE_LIMITED
    return None


def _is_ours(http_status: int, document: dict[str, Json]) -> bool:
    """Does the relay speak of the key that it was asked with?"""
    return (
        http_status in (401, 403)
        or dict_or_empty(document.get("error")).get("type") == OWN_ERROR_TYPE
    )


def _kind_without_json(http_status: int, text: str) -> ErrorKind:
    if http_status == 429:
        return ErrorKind.SATURATED if SATURATION.search(text) else ErrorKind.RATE_LIMITED
    if http_status == 404:  # a gateway, a wrong base URL, a deployment
        return ErrorKind.BAD_SHAPE
    if text:  # a proxy's page (nginx, Cloudflare) comes with any status and says nothing of the key
        return ErrorKind.SERVER_ERROR if http_status >= 500 else ErrorKind.NOT_JSON
    return _kind_of_status(http_status) if not 200 <= http_status < 300 else ErrorKind.NOT_JSON


def _error_kind(http_status: int, document: dict[str, Json], message: str) -> ErrorKind:
    if http_status == 401:
        return ErrorKind.UNAUTHORIZED
    if http_status in (404, 400) and (
        UNKNOWN_ID.search(_code(document)) or UNKNOWN_ID.search(message)
    ):
        return ErrorKind.NOT_FOUND
    return worded_kind(http_status, document, message) or _kind_of_status(http_status)


def _kind_of_status(http_status: int) -> ErrorKind:
    named = {
        401: ErrorKind.UNAUTHORIZED,
        402: ErrorKind.QUOTA,
        403: ErrorKind.FORBIDDEN,
        408: ErrorKind.SERVER_ERROR,
        429: ErrorKind.RATE_LIMITED,
    }
    return named.get(http_status) or (
        ErrorKind.SERVER_ERROR if http_status >= 500 else ErrorKind.BAD_SHAPE
    )


def _error(
    kind: ErrorKind, message: str, http_status: int, wait: float | None, body: Json = None
) -> AnswerError:
    """An error whose message holds no request ids, so that equal errors fold; they stand apart."""
    text = excerpt(REQUEST_ID.sub("", message).strip()) or kind.value
    return AnswerError(kind, text, http_status, request_ids(message), wait, body)


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
