"""What upstream's answers mean: from an HTTP answer to a `Report` or an `AnswerError`. Pure, total.

Every body is foreign: any key may be missing or elsewhere, any type wrong, any text hostile. Where
to look is the table in `places`; what is made of what stands there is decided here. Whatever can't
be read becomes an `AnswerError`; nothing here raises, and only a status that is known to be final,
in an answer that speaks of a job, gives a final meaning. `docs/upstream.md` lists what is known.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from reelwatch.rules import finding, places
from reelwatch.rules.answer_errors import (
    AnswerError,
    ErrorKind,
    failed_look_up,
    with_error_status,
    with_good_status,
    without_json,
)
from reelwatch.rules.cleaning import (
    ContradictoryBodyError,
    Json,
    bounded,
    clean,
    clean_text,
    flag,
    moment,
    number,
    parse,
    progress,
    retry_after,
    text_or_none,
)
from reelwatch.rules.finding import Objects
from reelwatch.rules.reasons import Failure, errors_of, failure_of, reason_of
from reelwatch.rules.result_urls import url as result_url
from reelwatch.rules.status import (
    ENDS,
    STAGE_FAILURES,
    STATUS_LIMIT,
    UNFINISHED,
    Meaning,
    clean_status,
    meaning_of,
)

__all__ = [
    "Answer", "AnswerError", "ErrorKind", "Failure", "Meaning", "Report", "bounded", "clean",
    "clean_status", "clean_text", "failure_of", "interpret", "meaning_of", "moment", "retry_after",
]  # fmt: skip

PROMPT_LIMIT = 16_384
ENVELOPE_CODES = frozenset({"success", "succeed", "ok", "200", "0", ""})
NO_OBJECT = "the answer is not a JSON object"
NO_JOB = "no status, nothing about a job"
FOUND_ELSEWHERE = "the job was found by search, at no known place"
FOUND_BY_SEARCH = "the video URL was found by search, at no known place"


@dataclass(frozen=True, slots=True)
class Report:
    """A good answer: what upstream says about the job itself."""

    status: str | None
    meaning: Meaning
    video_url: str | None = None
    lacking: str | None = None  # what of a success was given in its place, and is not taken
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
    foreign_id: str | None = None  # by which it names the job, where that is not the asked one
    body: Json = None
    http_status: int = 200


Answer = Report | AnswerError


def interpret(
    video_id: str, http_status: int, headers: Mapping[str, str], body: bytes, now: datetime
) -> Answer:
    """Read one HTTP answer to the question about `video_id`.

    `headers` must look names up case-insensitively; `now` turns a Retry-After date into seconds.
    """
    good = 200 <= http_status < 300
    try:
        document = parse(body, once=frozenset(places.STATUS_KEYS) if good else frozenset())
    except ContradictoryBodyError as error:
        return AnswerError(ErrorKind.BAD_SHAPE, str(error), http_status)
    except ValueError:
        return without_json(http_status, headers, body, now)
    if good:
        return _from_document(video_id, http_status, document)
    return with_error_status(http_status, headers, places.snaked(document, texts=False), now)


# ------------------------------------------------------------------ bodies


class _Spoken(NamedTuple):
    """The words of an answer: the job's, and what is said beside and within it."""

    status: str | None
    peers: tuple[str, ...]  # of the same rank: they contradict a success that is not over
    inner: tuple[str, ...]  # of the record: statuses stay behind there


def _from_document(video_id: str, http_status: int, document: Json) -> Answer:
    found = finding.objects(document, video_id)
    spoken = _spoken(found)
    if meaning_of(spoken.status) not in UNFINISHED:  # seldom enough to look more closely
        closer = finding.objects(places.snaked(document), video_id)
        if finding.has_status(closer.own) or spoken.status is None:
            found, spoken = closer, _spoken(closer)
    if not found.own and not isinstance(document, dict):
        message = NO_OBJECT
        return AnswerError(ErrorKind.BAD_SHAPE, message, http_status, body=document)
    error = _no_report(video_id, http_status, found, spoken.status)
    return error or _report(video_id, http_status, document, found, spoken)


def _no_report(
    video_id: str, http_status: int, found: Objects, status: str | None
) -> AnswerError | None:
    """The error of an answer that does not tell how the job is doing."""
    own = found.own
    if not all(map(_went_well, found.around)) or (status is None and _says_error(own)):
        return with_good_status(http_status, _telling(found), "error without a message")
    if status is None and not _names_a_job(own):
        message = NO_JOB
        return AnswerError(ErrorKind.BAD_SHAPE, message, http_status, body=own)
    about_none = meaning_of(status) in ENDS and not _speaks_of_a_job(found)
    if status and (
        about_none or (status == "error" and not _failed_job(video_id, http_status, own))
    ):
        return failed_look_up(http_status, _telling(found), status)
    return None


def _telling(found: Objects) -> dict[str, Json]:
    """The object that says what went wrong: the job's own, else one around it."""
    for each in (found.own, *found.around):
        if _says_error(each) or each.get("message"):
            return each
    return found.own


def _went_well(envelope: dict[str, Json]) -> bool:
    """Does an object around the job's own say that the request went well?"""
    code = envelope.get("code")
    known = code is None or str(code).strip().casefold().removesuffix(".0") in ENVELOPE_CODES
    return known and flag(envelope.get("success")) is not False


def _speaks_of_a_job(found: Objects) -> bool:
    """Does a final status stand with anything about a job, or in an envelope that went well?"""
    wrapped = any(each.get("code") is not None for each in found.around)  # `_went_well`, all of it
    return wrapped or any(map(finding.speaks_of_a_job, found.all))


def _names_a_job(own: dict[str, Json]) -> bool:
    return any(finding.answered_ids(own)) or bool(places.as_object(own.get("detail")))


def _says_error(document: dict[str, Json]) -> bool:
    return (
        bool(document.get("error"))
        or ("code" in document and "message" in document)
        or flag(document.get("success")) is False
    )


def _failed_job(video_id: str, http_status: int, own: dict[str, Json]) -> bool:
    """`status: error` is a failed job with a detail, `running: false`, or its id and a reason."""
    if places.as_object(own.get("detail")) or _running(own) is False:
        return True
    if not finding.names(own, video_id):
        return False
    # A look-up says why in documented words, or not at all; any other reason is the job's.
    return failed_look_up(http_status, own, "error").kind is ErrorKind.BAD_SHAPE


def _spoken(found: Objects) -> _Spoken:
    own = found.own
    outer = _statuses(own, places.STATUS)
    inner = _statuses(own, places.INNER_STATUS)
    known = [status for status in outer if meaning_of(status) is not Meaning.UNKNOWN]
    status = next(iter(known or outer or inner), None)
    peers = [each for object_ in found.within for each in _statuses(object_, places.STATUS)]
    return _Spoken(status, (*outer, *peers), tuple(inner))


def _statuses(document: dict[str, Json], where: places.Places) -> list[str]:
    found = (clean_status(places.only_text(value)) for value in places.values(document, where))
    return [status for status in found if status]


# ----------------------------------------------------------------- reports


def _report(
    video_id: str, http_status: int, document: Json, found: Objects, spoken: _Spoken
) -> Report:
    meaning, remarks = _meaning(spoken, found)
    where = places.RESULTS if meaning is Meaning.SUCCESS else places.VIDEO_URLS
    url = _first_url(found, where)
    lacking = None
    if meaning is Meaning.SUCCESS and url is None:
        url, remarks = _by_search(document, video_id)
        lacking = None if url else next(iter((*_unusable(found), *remarks)), None)
        remarks = (lacking,) if lacking else remarks
    if found.elsewhere:
        remarks = (*remarks, FOUND_ELSEWHERE)
    errors = tuple(
        dict.fromkeys(each for each in errors_of(found) if not url or result_url(each) != url)
    )
    return Report(
        status=spoken.status,
        meaning=meaning,
        video_url=url,
        lacking=lacking,
        video_urls={
            name: named
            for name, where in places.NAMED_URLS.items()
            if (named := _first_url(found, where))
        },
        enhanced_prompt=_text(found, places.PROMPT, PROMPT_LIMIT),
        model=_text(found, places.MODEL, STATUS_LIMIT),
        created_at=_time(found, places.CREATED_AT),
        completed_at=_time(found, places.COMPLETED_AT),
        updated_at=_time(found, places.UPDATED_AT),
        progress=_progress(found),
        errors=errors,
        failure=reason_of(found, spoken.status, meaning, errors),
        remarks=remarks,
        foreign_id=finding.foreign_id(video_id, found.own),
        body=document,
        http_status=http_status,
    )


def _meaning(spoken: _Spoken, found: Objects) -> tuple[Meaning, tuple[str, ...]]:
    """The meaning of the answer as a whole: words that contradict each other end nothing."""
    status = spoken.status
    meaning = Meaning.FAILURE if status == "error" else meaning_of(status)
    if meaning is Meaning.UNKNOWN:
        return meaning, (f"unknown status {status!r}" if status else "no status",)
    if meaning not in ENDS:
        return meaning, ()
    contradiction = _contradiction(spoken, meaning, found)
    return (Meaning.UNKNOWN, (contradiction,)) if contradiction else (meaning, ())


def _contradiction(spoken: _Spoken, meaning: Meaning, found: Objects) -> str | None:
    status, succeeded = spoken.status, meaning is Meaning.SUCCESS
    has_result = succeeded and _first_url(found, places.RESULTS) is not None
    if found.named_within and not has_result:
        return f"status says {status!r} of the request, nothing of the job within"
    for other in (*spoken.peers, *spoken.inner):
        said = meaning_of(other)
        failed = said in (Meaning.FAILURE, Meaning.EXPIRED) and other not in STAGE_FAILURES
        if failed if succeeded else said is Meaning.SUCCESS:
            where = "detail" if other in spoken.inner else "data"
            return f"status says {status!r}, {where} says {other!r}"
    if not succeeded and any(map(_running, found.all)):
        return f"status says {status!r} while the job is still running"
    unfinished = next((each for each in spoken.peers if meaning_of(each) in UNFINISHED), None)
    if succeeded and unfinished and not has_result:
        return f"status says {status!r}, beside it stands {unfinished!r} and no result"
    return None


def _running(document: dict[str, Json]) -> bool | None:
    """Does upstream say that it is still at it? None if it says nothing of it."""
    flags = map(flag, places.values(document, places.RUNNING))
    said = [each for each in flags if each is not None]
    return any(said) if said else None


# ----------------------------------------------------------------- results


def _first_url(found: Objects, where: places.Places) -> str | None:
    return next(filter(None, (places.first_url(each, where) for each in found.all)), None)


def _by_search(document: Json, video_id: str) -> tuple[str | None, tuple[str, ...]]:
    """The one URL that could be a result, wherever it stands, and that it was found so."""
    urls = finding.search(document, video_id)
    if len(urls) == 1:
        return next(iter(urls)), (FOUND_BY_SEARCH,)
    return None, (f"{len(urls)} URLs could be the result: none is taken",) if urls else ()


def _unusable(found: Objects) -> Iterator[str]:
    for given in filter(None, map(places.first_unusable, found.all)):
        yield f"gave a video URL that can't be used: {given}"


def _text(found: Objects, where: places.Places, limit: int) -> str | None:
    values = (value for each in found.all for value in places.values(each, where))
    return next(filter(None, (text_or_none(value, limit) for value in values)), None)


def _time(found: Objects, where: places.Places) -> datetime | None:
    values = (value for each in found.all for value in places.values(each, where))
    return next(filter(None, map(moment, values)), None)


def _progress(found: Objects) -> float | None:
    """How far the job is, 0 to 1."""
    for each in found.all:
        for value in places.values(each, places.PROGRESS_FRACTION):
            if (share := number(value)) is not None and 0 <= share <= 1:
                return share
        for value in places.values(each, places.ANY_PROGRESS):
            if (share := progress(value)) is not None:
                return share
    return None
