"""What upstream's words mean: from one HTTP answer to a `Report` or a `Trouble`. Pure and total.

Every body is foreign: any key may be missing or elsewhere, any type wrong, any text hostile. Where
to look is the table in `places`; what is made of what stands there is decided here. Whatever can't
be read becomes a `Trouble`; nothing here raises, and only a status word that is known to be final,
in an answer that speaks of a job, gives a final meaning. `docs/upstream.md` lists what is known.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from reelwatch.rules import finding, places
from reelwatch.rules.cleaning import (
    ContradictoryBodyError,
    Json,
    bounded,
    clean,
    clean_text,
    excerpt,
    flag,
    moment,
    number,
    parse,
    retry_after,
    text_or_none,
)
from reelwatch.rules.finding import Objects
from reelwatch.rules.reasons import Failure, errors_of, failure_of, reason_of
from reelwatch.rules.troubles import (
    ErrorKind,
    Trouble,
    failed_look_up,
    with_error_status,
    with_good_status,
    without_json,
)
from reelwatch.rules.words import (
    ENDS,
    STAGE_FAILURES,
    UNFINISHED,
    WORD_LIMIT,
    Meaning,
    meaning_of,
    status_word,
)

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
    "failure_of",
    "interpret",
    "meaning_of",
    "moment",
    "retry_after",
    "status_word",
]

PROMPT_LIMIT = 16_384
ENVELOPE_CODES = frozenset({"success", "succeed", "ok", "200", "0", ""})
FOUND_ELSEWHERE = "the job was found by search, at no known place"
FOUND_BY_SEARCH = "the video URL was found by search, at no known place"


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
    foreign_id: str | None = None  # by which it names the job, where that is not the asked one
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
        document = parse(body, once=frozenset(places.STATUS_KEYS) if good else frozenset())
    except ContradictoryBodyError as error:
        return Trouble(ErrorKind.BAD_SHAPE, str(error), status)
    except ValueError:
        return without_json(status, headers, body, now)
    if good:
        return _from_document(video_id, status, document)
    return with_error_status(status, headers, places.snaked(document, texts=False), now)


# ------------------------------------------------------------------ bodies


class _Spoken(NamedTuple):
    """The words of an answer: the job's, and what is said beside and within it."""

    word: str | None
    peers: tuple[str, ...]  # of the same rank: they contradict a success that is not over
    inner: tuple[str, ...]  # of the record: stage words stay behind there


def _from_document(video_id: str, status: int, document: Json) -> Answer:
    found = finding.objects(document, video_id)
    spoken = _spoken(found)
    if meaning_of(spoken.word) not in UNFINISHED:  # seldom enough to look more closely
        closer = finding.objects(places.snaked(document), video_id)
        if finding.has_status(closer.own) or spoken.word is None:
            found, spoken = closer, _spoken(closer)
    if not found.own and not isinstance(document, dict):
        message = "the answer is not a JSON object"
        return Trouble(ErrorKind.BAD_SHAPE, message, status, body=document)
    trouble = _no_report(video_id, status, found, spoken.word)
    return trouble or _report(video_id, status, document, found, spoken)


def _no_report(video_id: str, status: int, found: Objects, word: str | None) -> Trouble | None:
    """The trouble of an answer that does not tell how the job is doing."""
    own = found.own
    if not all(map(_went_well, found.around)) or (word is None and _says_error(own)):
        return with_good_status(status, _telling(found), "error without a message")
    if word is None and not _names_a_job(own):
        message = "no status, nothing about a job"
        return Trouble(ErrorKind.BAD_SHAPE, message, status, body=own)
    about_none = meaning_of(word) in ENDS and not _speaks_of_a_job(found)
    if word and (about_none or (word == "error" and not _failed_job(video_id, status, own))):
        return failed_look_up(status, _telling(found), word)
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
    """Does a final word stand with anything about a job, or in an envelope that went well?"""
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


def _failed_job(video_id: str, status: int, own: dict[str, Json]) -> bool:
    """`status: error` is a failed job with a detail, `running: false`, or its id and a reason."""
    if places.as_object(own.get("detail")) or _running(own) is False:
        return True
    if not finding.names(own, video_id):
        return False
    # A look-up says why in documented words, or not at all; any other reason is the job's.
    return failed_look_up(status, own, "error").kind is ErrorKind.BAD_SHAPE


def _spoken(found: Objects) -> _Spoken:
    own = found.own
    outer = _words(own, places.STATUS)
    inner = _words(own, places.INNER_STATUS)
    known = [word for word in outer if meaning_of(word) is not Meaning.UNKNOWN]
    word = next(iter(known or outer or inner), None)
    peers = [each for object_ in found.within for each in _words(object_, places.STATUS)]
    return _Spoken(word, (*outer, *peers), tuple(inner))


def _words(document: dict[str, Json], where: tuple[places.Path, ...]) -> list[str]:
    found = (status_word(places.only_text(value)) for value in places.values(document, where))
    return [word for word in found if word]


# ----------------------------------------------------------------- reports


def _report(video_id: str, status: int, document: Json, found: Objects, spoken: _Spoken) -> Report:
    meaning, remarks = _meaning(spoken, found)
    where = places.RESULTS if meaning is Meaning.SUCCESS else places.VIDEO_URLS
    url = _first_url(found, where)
    if meaning is Meaning.SUCCESS and url is None:
        url, remarks = _by_search(document, video_id)
    if found.elsewhere:
        remarks = (*remarks, FOUND_ELSEWHERE)
    errors = tuple(
        dict.fromkeys(each for each in errors_of(found) if not url or places.url(each) != url)
    )
    return Report(
        word=spoken.word,
        meaning=meaning,
        video_url=url,
        video_urls={
            name: named
            for name, where in places.NAMED_URLS.items()
            if (named := _first_url(found, where))
        },
        enhanced_prompt=_text(found, places.PROMPT, PROMPT_LIMIT),
        model=_text(found, places.MODEL, WORD_LIMIT),
        created_at=_time(found, places.CREATED_AT),
        completed_at=_time(found, places.COMPLETED_AT),
        updated_at=_time(found, places.UPDATED_AT),
        progress=_progress(found),
        errors=errors,
        failure=reason_of(found, spoken.word, meaning, errors),
        remarks=remarks,
        foreign_id=_foreign_id(video_id, found.own),
        body=document,
        http_status=status,
    )


def _meaning(spoken: _Spoken, found: Objects) -> tuple[Meaning, tuple[str, ...]]:
    """The meaning of the answer as a whole: words that contradict each other end nothing."""
    word = spoken.word
    meaning = Meaning.FAILURE if word == "error" else meaning_of(word)
    if meaning is Meaning.UNKNOWN:
        return meaning, (f"unknown status word {word!r}" if word else "no status word",)
    if meaning not in ENDS:
        return meaning, ()
    contradiction = _contradiction(spoken, meaning, found)
    return (Meaning.UNKNOWN, (contradiction,)) if contradiction else (meaning, ())


def _contradiction(spoken: _Spoken, meaning: Meaning, found: Objects) -> str | None:
    word, succeeded = spoken.word, meaning is Meaning.SUCCESS
    has_result = succeeded and _first_url(found, places.RESULTS) is not None
    if found.named_within and not has_result:
        return f"status says {word!r} of the request, nothing of the job within"
    for other in (*spoken.peers, *spoken.inner):
        said = meaning_of(other)
        failed = said in (Meaning.FAILURE, Meaning.EXPIRED) and other not in STAGE_FAILURES
        if failed if succeeded else said is Meaning.SUCCESS:
            where = "detail" if other in spoken.inner else "data"
            return f"status says {word!r}, {where} says {other!r}"
    if not succeeded and any(map(_running, found.all)):
        return f"status says {word!r} while the job is still running"
    unfinished = next((each for each in spoken.peers if meaning_of(each) in UNFINISHED), None)
    if succeeded and unfinished and not has_result:
        return f"status says {word!r}, beside it stands {unfinished!r} and no result"
    return None


def _running(document: dict[str, Json]) -> bool | None:
    """Does upstream say that it is still at it? None if it says nothing of it."""
    flags = map(flag, places.values(document, places.RUNNING))
    said = [each for each in flags if each is not None]
    return any(said) if said else None


def _foreign_id(video_id: str, own: dict[str, Json]) -> str | None:
    """The id by which the answer names its job, where none of its ids is the one asked for."""
    answered = list(finding.answered_ids(own))
    if any(finding.same_id(each, video_id) for each in answered):
        return None
    return excerpt(answered[0]) if answered else None


# ----------------------------------------------------------------- results


def _first_url(found: Objects, where: tuple[places.Path, ...]) -> str | None:
    return next(filter(None, (places.first_url(each, where) for each in found.all)), None)


def _by_search(document: Json, video_id: str) -> tuple[str | None, tuple[str, ...]]:
    """The one URL that could be a result, wherever it stands, and that it was found so."""
    urls = finding.search(document, video_id)
    if len(urls) == 1:
        return next(iter(urls)), (FOUND_BY_SEARCH,)
    return None, (f"{len(urls)} URLs could be the result: none is taken",) if urls else ()


def _text(found: Objects, where: tuple[places.Path, ...], limit: int) -> str | None:
    values = (value for each in found.all for value in places.values(each, where))
    return next(filter(None, (text_or_none(value, limit) for value in values)), None)


def _time(found: Objects, where: tuple[places.Path, ...]) -> datetime | None:
    values = (value for each in found.all for value in places.values(each, where))
    return next(filter(None, map(moment, values)), None)


def _progress(found: Objects) -> float | None:
    """How far the job is, 0 to 1."""
    for each in found.all:
        for value in places.values(each, places.PROGRESS_FRACTION):
            if (share := number(value)) is not None and 0 <= share <= 1:
                return share
        for value in places.values(each, (*places.PROGRESS_FRACTION, *places.PROGRESS)):
            if (share := _share(value)) is not None:
                return share
    return None


def _share(value: Json) -> float | None:
    """A progress as 0 to 1: what lies between is one already, all else is per cent.

    `1` is one per cent and `1.0` all of it: who writes fractions ends with that.
    """
    text = value.strip() if isinstance(value, str) else value
    percent = isinstance(text, str) and text.endswith("%")
    found = number(text.removesuffix("%") if isinstance(text, str) else text)
    if found is None or not 0 <= found <= 100:
        return None
    whole = percent or found > 1 or (found == 1 and str(text) == "1")
    return found / 100 if whole else found
