"""What upstream's words mean: from one HTTP answer to a `Report` or a `Trouble`. Pure and total.

Every body is foreign: any key may be missing, any type wrong, any text hostile. Whatever can't be
read becomes a `Trouble`; nothing here raises, and only a status word that is known to be final
gives a final meaning. The facts about words, fields and error bodies come from the relays'
documentation, published bodies and public client code; `docs/upstream.md` lists them.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import Any

Json = Any  # a JSON value as json.loads gives it, cleaned by `clean`


class Meaning(StrEnum):
    """What a status word says about a job."""

    NOT_STARTED = "not_started"
    IN_PROGRESS = "in_progress"
    SUCCESS = "success"
    FAILURE = "failure"
    EXPIRED = "expired"
    UNKNOWN = "unknown"


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


WORDS: Mapping[Meaning, frozenset[str]] = {
    Meaning.SUCCESS: frozenset(
        {"completed", "success", "succeeded", "succeed", "done", "finished"}
    ),
    Meaning.FAILURE: frozenset(
        {
            "failed",
            "failure",
            "fail",
            "video_generation_failed",
            "video_upsampling_failed",
            "cancelled",
            "canceled",
            "rejected",
            "blocked",
        }
    ),
    Meaning.EXPIRED: frozenset({"expired", "timeout", "timed_out"}),
    Meaning.NOT_STARTED: frozenset(
        {"pending", "queued", "submitted", "not_start", "created", "waiting", "initializing"}
    ),
    Meaning.IN_PROGRESS: frozenset(
        {
            "processing",
            "running",
            "in_progress",
            "generating",
            "image_downloading",
            "video_generating",
            "video_generation_completed",
            "video_upsampling",
            "video_upsampling_completed",
        }
    ),
}
MEANINGS: Mapping[str, Meaning] = {word: meaning for meaning, ws in WORDS.items() for word in ws}
ENDS = frozenset({Meaning.SUCCESS, Meaning.FAILURE, Meaning.EXPIRED})

# Stage words stay behind in `detail.status` after a retry that worked: they contradict no success.
STAGE_FAILURES = frozenset({"video_generation_failed", "video_upsampling_failed"})

QUOTA_CODES = frozenset({"insufficient_user_quota", "pre_consume_token_quota_failed"})
NOT_FOUND_CODES = frozenset({"task_not_exist"})
RELAY_FAILURE_CODES = frozenset({"fail_to_fetch_task"})  # the relay could not ask; comes with 403
SATURATION = re.compile(r"饱和|saturated", re.IGNORECASE)
QUOTA_TEXT = re.compile(
    r"额度不足|insufficient[_ ]user[_ ]quota|quota is not enough", re.IGNORECASE
)
INVALID_TOKEN = re.compile(r"无效的令牌|invalid token|该令牌", re.IGNORECASE)
WRONG_ROUTE = re.compile(r"invalid url", re.IGNORECASE)
REQUEST_ID = re.compile(r"\s*\(?\brequest[ _]id:\s*([\w.-]{4,128})\)?", re.IGNORECASE)
POLICY = re.compile(
    r"unsafe prompt or images|PUBLIC_ERROR_(?:UNSAFE_GENERATION|MINOR(?:_UPLOAD)?"
    r"|SEXUAL(?:_UPLOAD)?|VIOLENCE_FILTER|DANGER_FILTER|PROMINENT_PEOPLE_FILTER_FAILED"
    r"|PROMINENT_PEOPLE_UPLOAD|\w*CONTENT_POLICY)\b",
    re.IGNORECASE,
)

WORD_LIMIT = 100  # characters of a status word that are kept
TEXT_LIMIT = 2_000  # characters of one error text
PAGE_EXCERPT = 300  # characters of a page that is no JSON
URL_LIMIT = 8_192
PROMPT_LIMIT = 16_384
BODY_LIMIT = 65_536  # characters of the JSON that `transitions.answer` keeps
DEPTH_LIMIT = 40
RETRY_AFTER_LIMIT = 3_600.0  # seconds; a relay that says ten years is not believed


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a job has no video. `retryable`: may the same request, submitted anew, succeed?"""

    code: str
    message: str
    retryable: bool
    request_id: str | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """A good answer: what upstream says about the job itself."""

    word: str | None
    meaning: Meaning
    video_url: str | None = None
    video_urls: Mapping[str, str] | None = None
    enhanced_prompt: str | None = None
    model: str | None = None
    created_at: datetime | None = None
    completed_at: datetime | None = None
    updated_at: datetime | None = None
    progress: float | None = None  # 0 to 1
    errors: tuple[str, ...] = ()  # error texts, leftovers of retries included
    failure: Failure | None = None
    remarks: tuple[str, ...] = ()  # what was odd: stored and counted, decides nothing
    body: Json = None
    http_status: int = 200


@dataclass(frozen=True, slots=True)
class Trouble:
    """A look that brought no word about the job."""

    kind: ErrorKind
    message: str
    http_status: int | None = None
    request_id: str | None = None
    retry_after: float | None = None  # seconds
    body: Json = None


Answer = Report | Trouble


def interpret(
    video_id: str, status: int, headers: Mapping[str, str], body: bytes, now: datetime
) -> Answer:
    """Read one HTTP answer to the question about `video_id`.

    `headers` must look names up case-insensitively; `now` turns a Retry-After date into seconds.
    """
    try:
        document = _parse(body)
    except ContradictoryBodyError as error:
        return Trouble(ErrorKind.BAD_SHAPE, str(error), status)
    except ValueError:
        return _without_json(status, headers, body, now)
    if 200 <= status < 300:
        return _from_document(video_id, status, document)
    return _from_error_status(status, headers, document, now)


def status_word(value: object) -> str | None:
    """A status word as it is compared and stored: trimmed, case-folded, bounded; None if absent."""
    if not isinstance(value, str):
        return None
    return clean_text(value).strip().casefold()[:WORD_LIMIT] or None


def meaning_of(word: str | None) -> Meaning:
    """The meaning of a status word; UNKNOWN for all that was never seen (`error` needs context)."""
    return MEANINGS.get(word, Meaning.UNKNOWN) if word else Meaning.UNKNOWN


def moment(value: object) -> datetime | None:
    """A time that upstream gave in seconds or milliseconds (both occur, even for one job)."""
    number = _number(value)
    if number is None:
        return None
    seconds = number / 1000 if number >= 1e11 else number  # 1e11 s lies in the year 5138
    if not 946_684_800 <= seconds < 4_102_444_800:  # 2000 to 2100: anything else is no time
        return None
    return datetime.fromtimestamp(seconds, UTC)


def retry_after(value: str | None, now: datetime) -> float | None:
    """Seconds that a Retry-After header asks for, at most an hour; None where it makes no sense."""
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        seconds = _seconds_until(value, now)
    if not math.isfinite(seconds) or seconds < 0:
        return None
    return min(seconds, RETRY_AFTER_LIMIT)


def clean_text(text: str) -> str:
    """The text without what databases refuse: NUL characters and lone surrogates."""
    return text.replace("\x00", "").encode("utf-8", "replace").decode("utf-8")


def clean(value: Json, depth: int = 0) -> Json:
    """A JSON value that SQLite and PostgreSQL both store, no deeper than `DEPTH_LIMIT`."""
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict | list) and depth >= DEPTH_LIMIT:
        return "…"
    if isinstance(value, dict):
        return {clean_text(str(key)): clean(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list):
        return [clean(item, depth + 1) for item in value]
    return value


def bounded(value: Json) -> Json:
    """The cleaned value, or an excerpt of it where it is too large to keep."""
    cleaned = clean(value)
    text = json.dumps(cleaned, ensure_ascii=False)
    if len(text) <= BODY_LIMIT:
        return cleaned
    return {"truncated": True, "characters": len(text), "excerpt": text[:4_000]}


# ------------------------------------------------------------------ bodies


class ContradictoryBodyError(Exception):
    """One object says two different things about its status."""


def _parse(body: bytes) -> Json:
    text = body.decode(json.detect_encoding(body), "replace").removeprefix("\ufeff")
    try:
        return json.loads(text, parse_constant=lambda _: None, object_pairs_hook=_one_status)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _one_status(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    document: dict[str, Json] = {}
    for key, value in pairs:
        if key == "status" and key in document and document[key] != value:
            raise ContradictoryBodyError("the answer holds two different values of status")
        document[key] = value
    return document


def _without_json(status: int, headers: Mapping[str, str], body: bytes, now: datetime) -> Trouble:
    text = body.decode("utf-8", "replace").strip()
    kind = _kind_without_json(status, text)
    message = _excerpt(text)[:PAGE_EXCERPT] if text else f"empty answer with status {status}"
    return _trouble(kind, message, status, retry_after(headers.get("Retry-After"), now))


def _kind_without_json(status: int, text: str) -> ErrorKind:
    if status == 429:
        return ErrorKind.SATURATED if SATURATION.search(text) else ErrorKind.RATE_LIMITED
    if text:  # a proxy's page (nginx, Cloudflare) comes with any status and says nothing of the key
        return ErrorKind.SERVER_ERROR if status >= 500 else ErrorKind.NOT_JSON
    return _kind_of_status(status) if not 200 <= status < 300 else ErrorKind.NOT_JSON


def _from_document(video_id: str, status: int, document: Json) -> Answer:
    if not isinstance(document, dict):
        return Trouble(
            ErrorKind.BAD_SHAPE, "the answer is not a JSON object", status, body=document
        )
    document = _unwrapped(document)
    if not _about(video_id, document):
        message = f"the answer is about another job: {_excerpt(str(document.get('id')))}"
        return Trouble(ErrorKind.BAD_SHAPE, message, status, body=document)
    word = status_word(document.get("status"))
    if word is None and _says_error(document):
        return _error_without_status(status, document)
    if word == "error" and not _failed_job(document):
        return _trouble(
            ErrorKind.NOT_FOUND, _message(document) or "status: error", status, None, document
        )
    if word is None and not _is_about_a_job(document):
        return Trouble(ErrorKind.BAD_SHAPE, "no status, nothing about a job", status, body=document)
    return _report(status, word, document)


def _unwrapped(document: dict[str, Json]) -> dict[str, Json]:
    """Sibling routes wrap a good answer: `{"code": "success" | 200, "data": {…}}`."""
    inner = document.get("data")
    if (
        "status" not in document
        and document.get("code") in ("success", 200, "200")
        and isinstance(inner, dict)
    ):
        return inner
    return document


def _about(video_id: str, document: dict[str, Json]) -> bool:
    """Is the answer about the id that was asked for? It may lack the id's prefix, or the id."""
    answered = document.get("id")
    if not isinstance(answered, str) or not answered.strip():
        return True
    return _bare(answered) == _bare(video_id)


def _bare(video_id: str) -> str:
    return video_id.strip().rpartition(":")[2].casefold()


def _says_error(document: dict[str, Json]) -> bool:
    return (
        bool(document.get("error"))
        or ("code" in document and "message" in document)
        or (document.get("success") is False)
    )


def _failed_job(document: dict[str, Json]) -> bool:
    """`status: error` is a failed job with `detail` or `running: false`, else a failed look-up."""
    return bool(_dict(document.get("detail"))) or document.get("running") is False


def _is_about_a_job(document: dict[str, Json]) -> bool:
    return bool(document.get("id")) or bool(_dict(document.get("detail")))


# ------------------------------------------------------------------ errors


def _from_error_status(
    status: int, headers: Mapping[str, str], document: Json, now: datetime
) -> Trouble:
    document = document if isinstance(document, dict) else {"message": document}
    message = _message(document) or f"HTTP status {status}"
    kind = _error_kind(status, _code(document), message)
    return _trouble(kind, message, status, retry_after(headers.get("Retry-After"), now), document)


def _error_without_status(status: int, document: dict[str, Json]) -> Trouble:
    """HTTP 200 that holds an error: the account's trouble or nobody's, never the end of a job."""
    message = _message(document) or "error without a message"
    kind = _worded_kind(_code(document), message) or ErrorKind.BAD_SHAPE
    return _trouble(kind, message, status, None, document)


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
    return Trouble(
        kind,
        _excerpt(REQUEST_ID.sub("", message).strip()) or kind.value,
        status,
        _request_id(message),
        wait,
        body,
    )


def _code(document: dict[str, Json]) -> str:
    error = _dict(document.get("error"))
    value = error.get("code") or document.get("code") or error.get("type") or ""
    return str(value)[:WORD_LIMIT].casefold()


def _message(document: dict[str, Json]) -> str:
    """The error text of any of the known forms, JSON inside a string unwrapped."""
    error = document.get("error")
    candidates = (_dict(error).get("message"), error, document.get("message"), document.get("code"))
    for value in candidates:
        if isinstance(value, str) and value.strip():
            return _excerpt(_inner_message(value) or value)
    return ""


def _inner_message(text: str) -> str:
    """The message of an error that a relay wrapped as JSON inside a string."""
    if not text.lstrip().startswith("{"):
        return ""
    try:
        inner = _parse(text.encode("utf-8", "replace"))
    except (ValueError, ContradictoryBodyError):
        return ""
    return _message(inner) if isinstance(inner, dict) else ""


def _request_id(text: str) -> str | None:
    found = dict.fromkeys(REQUEST_ID.findall(text))
    return ", ".join(found)[:255] or None


# ----------------------------------------------------------------- reports


def _report(status: int, word: str | None, document: dict[str, Json]) -> Report:
    detail = _dict(document.get("detail"))
    errors = tuple(dict.fromkeys(_error_texts(document, detail)))
    meaning, remarks = _meaning(word, document, detail)
    urls = dict(_video_urls(detail))
    return Report(
        word=word,
        meaning=meaning,
        video_url=_url(document.get("video_url")) or urls.get("upsampled") or urls.get("original"),
        video_urls=urls,
        enhanced_prompt=_text(
            document.get("enhanced_prompt") or detail.get("enhanced_prompt"), PROMPT_LIMIT
        ),
        model=_text(_dict(detail.get("req")).get("model"), WORD_LIMIT),
        created_at=moment(detail.get("created_at")) or moment(document.get("created_at")),
        completed_at=moment(detail.get("completed_at")) or moment(document.get("completed_at")),
        updated_at=moment(document.get("status_update_time"))
        or moment(detail.get("status_update_time")),
        progress=_progress(document, detail),
        errors=errors,
        failure=_failure(word, meaning, errors),
        remarks=remarks,
        body=document,
        http_status=status,
    )


def _meaning(
    word: str | None, document: dict[str, Json], detail: dict[str, Json]
) -> tuple[Meaning, tuple[str, ...]]:
    """The meaning of the answer as a whole: words that contradict each other end nothing."""
    meaning = Meaning.FAILURE if word == "error" else meaning_of(word)
    if meaning is Meaning.UNKNOWN:
        return meaning, (f"unknown status word {word!r}" if word else "no status word",)
    contradiction = _contradiction(word, meaning, document, detail) if meaning in ENDS else None
    return (Meaning.UNKNOWN, (contradiction,)) if contradiction else (meaning, ())


def _contradiction(
    word: str | None, meaning: Meaning, document: dict[str, Json], detail: dict[str, Json]
) -> str | None:
    inner_word = status_word(detail.get("status"))
    inner = meaning_of(inner_word)
    succeeded = meaning is Meaning.SUCCESS
    if (
        succeeded
        and inner in (Meaning.FAILURE, Meaning.EXPIRED)
        and inner_word not in STAGE_FAILURES
    ):
        return f"status says {word!r}, detail says {inner_word!r}"
    if not succeeded and inner is Meaning.SUCCESS:
        return f"status says {word!r}, detail says {inner_word!r}"
    if not succeeded and (detail.get("running") is True or document.get("running") is True):
        return f"status says {word!r} while the job is still running"
    return None


def _error_texts(document: dict[str, Json], detail: dict[str, Json]) -> Iterator[str]:
    sources = (document, detail)
    for key in ("error", "error_message", "video_generation_error", "fail_reason"):
        for source in sources:
            text = _error_text(source.get(key))
            if text:
                yield text


def _error_text(value: Json) -> str | None:
    if isinstance(value, dict):
        return _text(
            value.get("message") or value.get("code") or json.dumps(clean(value)), TEXT_LIMIT
        )
    return _text(value, TEXT_LIMIT)


def _failure(word: str | None, meaning: Meaning, errors: tuple[str, ...]) -> Failure | None:
    if meaning not in (Meaning.FAILURE, Meaning.EXPIRED):
        return None
    text = " | ".join(errors)
    message = _excerpt(errors[0]) if errors else f"upstream gave no reason (status: {word})"
    code = _failure_code(word, meaning, text)
    return Failure(code, message, code != "content_policy", _request_id(text))


def _failure_code(word: str | None, meaning: Meaning, text: str) -> str:
    if POLICY.search(text):
        return "content_policy"
    if meaning is Meaning.EXPIRED:
        return "upstream_expired"
    return "upsampling_failed" if word == "video_upsampling_failed" else "upstream_failed"


def _video_urls(detail: dict[str, Json]) -> Iterator[tuple[str, str]]:
    """Result URLs by name. Never "any URL": `req.images` and `images[].url` are the inputs."""
    for name, value in (
        ("upsampled", _url(detail.get("upsample_video_url"))),
        ("original", _url(detail.get("video_url")) or _url(detail.get("url"))),
    ):
        if value:
            yield name, value


def _url(value: Json) -> str | None:
    text = _text(value, URL_LIMIT + 1)
    if text is None or len(text) > URL_LIMIT or not text.startswith(("https://", "http://")):
        return None
    return text


def _progress(document: dict[str, Json], detail: dict[str, Json]) -> float | None:
    """How far the job is, 0 to 1, from sora's `progress_pct` or grok's `progress`."""
    for value in (detail.get("progress_pct"), document.get("progress"), detail.get("progress")):
        number = _number(value.strip().removesuffix("%") if isinstance(value, str) else value)
        if number is not None and 0 <= number <= 100:
            return number / 100 if number > 1 else number
    return None


# ------------------------------------------------------------------ values


def _dict(value: Json) -> dict[str, Json]:
    return value if isinstance(value, dict) else {}


def _text(value: Json, limit: int) -> str | None:
    if not isinstance(value, str):
        return None
    return clean_text(value[:limit]).strip() or None


def _excerpt(text: str) -> str:
    return clean_text(" ".join(text[:TEXT_LIMIT].split()))


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _seconds_until(date: str, now: datetime) -> float:
    try:
        at = parsedate_to_datetime(date)
        return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() - now.timestamp()
    except (ValueError, OverflowError, TypeError, IndexError):
        return math.nan
