"""Why a job has no video: the reason that stands in an answer, wherever it does. Pure."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

from reelwatch.rules import places
from reelwatch.rules.answer_errors import AnswerError, request_ids, text_of
from reelwatch.rules.cleaning import TEXT_LIMIT, Json, clean, excerpt, text_or_none
from reelwatch.rules.finding import Objects
from reelwatch.rules.status import Meaning

POLICY = re.compile(
    r"unsafe prompt or images|may violate our guardrails|photorealistic person"
    r"|content[ _](?:policy[ _])?violation|\bIP_PROHIBITED\b"
    r"|PUBLIC_ERROR_(?:UNSAFE_GENERATION|MINOR(?:_UPLOAD)?|SEXUAL(?:_UPLOAD)?|VIOLENCE_FILTER"
    r"|DANGER_FILTER|PROMINENT_PEOPLE_FILTER_FAILED|PROMINENT_PEOPLE_UPLOAD|IP_INPUT_IMAGE"
    r"|AUDIO_FILTERED|\w*CONTENT_POLICY)\b",
    re.IGNORECASE,
)
# What says that a request went well, where a reason may stand.
NO_REASON = frozenset({"success", "succeed", "succeeded", "ok", "0", "200", "none", "null"})


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a job has no video. `retryable`: may the same request, submitted anew, succeed?"""

    code: str
    message: str
    retryable: bool
    request_id: str | None = None


def errors_of(found: Objects) -> Iterator[str]:
    """All error texts of an answer, the job's own first; below a success they are leftovers.

    Errors without a text come last.
    """
    silent = []
    for each in found.all:
        for value in filter(None, places.values(each, places.ERRORS)):
            if text := _text(value):
                yield text
            elif not text_of(value):
                silent.append(value)
    yield from filter(None, map(_without_text, silent))


def _texts(document: dict[str, Json], where: places.Places) -> Iterator[str]:
    yield from filter(None, map(_text, places.values(document, where)))


def _text(value: Json) -> str:
    """The text of what stands at one place; empty where it says nothing."""
    text = text_of(value) or (str(value) if isinstance(value, int) and value else "")
    return "" if text.casefold() in NO_REASON else text


def _without_text(value: Json) -> str | None:
    """What an error of any type says: even `{"code": 500}` says more than "no reason"."""
    if isinstance(value, dict):
        value = value.get("code") or (any(value.values()) and value)
    if value and not isinstance(value, str):
        value = json.dumps(clean(value), ensure_ascii=False)
    return text_or_none(value, TEXT_LIMIT)


def reason_of(
    found: Objects, status: str | None, meaning: Meaning, errors: tuple[str, ...]
) -> Failure | None:
    """Why the job failed, if it did; `errors` are the answer's error texts."""
    if meaning not in (Meaning.FAILURE, Meaning.EXPIRED):
        return None
    told = (found.own, *found.within)  # what is told around them is about the request
    messages = (text for each in told for text in _texts(each, places.MESSAGES))
    codes = (text for each in told for text in _texts(each, places.CODES))
    hints = (text for each in told for text in _texts(each, places.HINTS))
    texts = (*errors, *messages, *codes)
    text = " | ".join((*texts, *hints))
    message = excerpt(texts[0]) if texts else f"upstream gave no reason (status: {status})"
    code = _failure_code(status, meaning, text)
    return Failure(code, message, code != "content_policy", request_ids(text))


def failure_of(error: AnswerError) -> Failure:
    """What an error about the job says when it has become the job's end."""
    code = _failure_code("error", Meaning.FAILURE, error.message)
    return Failure(code, error.message, code != "content_policy", error.request_id)


def _failure_code(status: str | None, meaning: Meaning, text: str) -> str:
    if POLICY.search(text):
        return "content_policy"
    if meaning is Meaning.EXPIRED:
        return "upstream_expired"
    return "upsampling_failed" if status == "video_upsampling_failed" else "upstream_failed"
