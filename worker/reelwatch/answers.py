"""What upstream's words mean: from one HTTP answer to a `Report` or a `Trouble`. Pure and total.

Every body is foreign: any key may be missing, any type wrong, any text hostile. Whatever can't be
read becomes a `Trouble`; nothing here raises, and only a status word that is known to be final
gives a final meaning. The facts about words, fields and error bodies come from the relays'
documentation, published bodies and public client code; `docs/upstream.md` lists them.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

from reelwatch.cleaning import (
    TEXT_LIMIT,
    ContradictoryBodyError,
    Json,
    bounded,
    clean,
    clean_text,
    dict_or_empty,
    excerpt,
    moment,
    number,
    parse,
    retry_after,
    text_or_none,
)
from reelwatch.troubles import (
    ErrorKind,
    Trouble,
    request_ids,
    with_error_status,
    with_good_status,
    without_json,
)
from reelwatch.words import ENDS, STAGE_FAILURES, WORD_LIMIT, Meaning, meaning_of, status_word

__all__ = [
    "Answer",
    "ErrorKind",
    "Failure",
    "Meaning",
    "Report",
    "Trouble",
    "bounded",
    "clean",
    "clean_text",
    "interpret",
    "meaning_of",
    "moment",
    "retry_after",
    "status_word",
]

POLICY = re.compile(
    r"unsafe prompt or images|PUBLIC_ERROR_(?:UNSAFE_GENERATION|MINOR(?:_UPLOAD)?"
    r"|SEXUAL(?:_UPLOAD)?|VIOLENCE_FILTER|DANGER_FILTER|PROMINENT_PEOPLE_FILTER_FAILED"
    r"|PROMINENT_PEOPLE_UPLOAD|\w*CONTENT_POLICY)\b",
    re.IGNORECASE,
)

URL_START = re.compile(r"https?://", re.IGNORECASE)
URL_LIMIT = 8_192
PROMPT_LIMIT = 16_384


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


Answer = Report | Trouble


def interpret(
    video_id: str, status: int, headers: Mapping[str, str], body: bytes, now: datetime
) -> Answer:
    """Read one HTTP answer to the question about `video_id`.

    `headers` must look names up case-insensitively; `now` turns a Retry-After date into seconds.
    """
    good = 200 <= status < 300
    try:
        document = parse(body, one_status=good)
    except ContradictoryBodyError as error:
        return Trouble(ErrorKind.BAD_SHAPE, str(error), status)
    except ValueError:
        return without_json(status, headers, body, now)
    if good:
        return _from_document(video_id, status, document)
    return with_error_status(status, headers, document, now)


# ------------------------------------------------------------------ bodies


def _from_document(video_id: str, status: int, document: Json) -> Answer:
    if not isinstance(document, dict):
        return Trouble(
            ErrorKind.BAD_SHAPE, "the answer is not a JSON object", status, body=document
        )
    document = _unwrapped(document)
    if not _about(video_id, document):
        message = f"the answer is about another job: {excerpt(str(document.get('id')))}"
        return Trouble(ErrorKind.BAD_SHAPE, message, status, body=document)
    word = status_word(document.get("status"))
    if word is None and _says_error(document):
        silent = "error without a message"
        return with_good_status(status, document, ErrorKind.BAD_SHAPE, silent)
    if word == "error" and not _failed_job(document):
        return with_good_status(status, document, ErrorKind.NOT_FOUND, "status: error")
    if word is None and not _is_about_a_job(document):
        return Trouble(ErrorKind.BAD_SHAPE, "no status, nothing about a job", status, body=document)
    return _report(status, word, document)


def _unwrapped(document: dict[str, Json]) -> dict[str, Json]:
    """Sibling routes wrap a good answer: `{"code": "success" | 200, "data": {…}}`.

    A status beside the code tells how the request went, not how the job inside is doing.
    """
    inner = document.get("data")
    if not isinstance(inner, dict) or document.get("code") not in ("success", 200, "200"):
        return document
    return inner if "status" in inner or "status" not in document else document


def _about(video_id: str, document: dict[str, Json]) -> bool:
    """Is the answer about the id that was asked for? It may lack the id's prefix, or the id."""
    answered = document.get("id")
    if not isinstance(answered, str) or not answered.strip():
        return True
    return answered == video_id or _bare(answered) == _bare(video_id)


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
    return bool(dict_or_empty(document.get("detail"))) or document.get("running") is False


def _is_about_a_job(document: dict[str, Json]) -> bool:
    return bool(document.get("id")) or bool(dict_or_empty(document.get("detail")))


# ----------------------------------------------------------------- reports


def _report(status: int, word: str | None, document: dict[str, Json]) -> Report:
    detail = dict_or_empty(document.get("detail"))
    errors = tuple(dict.fromkeys(_error_texts(document, detail)))
    meaning, remarks = _meaning(word, document, detail)
    urls = dict(_video_urls(detail))
    return Report(
        word=word,
        meaning=meaning,
        video_url=_url(document.get("video_url")) or urls.get("upsampled") or urls.get("original"),
        video_urls=urls,
        enhanced_prompt=text_or_none(
            document.get("enhanced_prompt") or detail.get("enhanced_prompt"), PROMPT_LIMIT
        ),
        model=text_or_none(dict_or_empty(detail.get("req")).get("model"), WORD_LIMIT),
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
            value = source.get(key)
            text = _error_text(value) if value else None
            if text:
                yield text


def _error_text(value: Json) -> str | None:
    """The text of an error of any type: even `{"code": 500}` says more than "no reason"."""
    if isinstance(value, dict):
        value = value.get("message") or value.get("code") or (any(value.values()) and value)
    if value and not isinstance(value, str):
        value = json.dumps(clean(value), ensure_ascii=False)
    return text_or_none(value, TEXT_LIMIT)


def _failure(word: str | None, meaning: Meaning, errors: tuple[str, ...]) -> Failure | None:
    if meaning not in (Meaning.FAILURE, Meaning.EXPIRED):
        return None
    text = " | ".join(errors)
    message = excerpt(errors[0]) if errors else f"upstream gave no reason (status: {word})"
    code = _failure_code(word, meaning, text)
    return Failure(code, message, code != "content_policy", request_ids(text))


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
    text = text_or_none(value, URL_LIMIT + 1)
    if text is None or len(text) > URL_LIMIT or not URL_START.match(text):
        return None
    return text


def _progress(document: dict[str, Json], detail: dict[str, Json]) -> float | None:
    """How far the job is, 0 to 1, from the per cent of sora's `progress_pct` or a `progress`."""
    for value in (detail.get("progress_pct"), document.get("progress"), detail.get("progress")):
        percent = number(value.strip().removesuffix("%") if isinstance(value, str) else value)
        if percent is not None and 0 <= percent <= 100:
            return percent / 100
    return None
