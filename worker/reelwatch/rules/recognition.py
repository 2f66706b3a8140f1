"""Does an answer come from the relay, or from any server that happens to be asked? Pure.

Somebody's API answers 404 in JSON, a gateway 401, a page 200: none of that says that the base URL
is right. Only what the relay's own software says does: its codes and texts, the type of its errors,
the request ids that it puts into them.
"""

from reelwatch.rules.answer_errors import (
    OWN_ERROR_TYPE,
    QUOTA_CODES,
    RELAY_FAILURE_CODES,
    SATURATION,
    AnswerError,
)
from reelwatch.rules.answers import Answer, ErrorKind, Report
from reelwatch.rules.cleaning import dict_or_empty

# Errors on the way, or of a server of whatever kind: they say nothing for or against.
SAY_NOTHING = frozenset(
    {
        ErrorKind.TIMEOUT,
        ErrorKind.CONNECTION,
        ErrorKind.TOO_LARGE,
        ErrorKind.SERVER_ERROR,
        ErrorKind.RATE_LIMITED,
        ErrorKind.SATURATED,
    }
)


def doubt(answer: Answer) -> str | None:
    """Why an answer about an id that no relay gave looks like another server's; None: it does not.

    A good answer does: who knows a job of such an id answers anything.
    """
    if isinstance(answer, Report):
        return f"it tells of a job that there can't be (status {answer.status!r})"
    if _is_relays(answer) or answer.kind in SAY_NOTHING:
        return None
    if 300 <= (answer.http_status or 0) < 400:
        return "it redirects, and redirects are not followed"
    if answer.body is None and answer.message.startswith("<"):
        return f"it answers {answer.http_status} with a page"
    return "nothing in its answer shows the relay"


def wrong_place(answer: Answer) -> bool:
    """Does it say that nothing is there to be asked, whoever says it?"""
    return isinstance(answer, AnswerError) and (
        answer.http_status in (404, 405) and answer.kind is not ErrorKind.NOT_FOUND
    )


def _is_relays(answer: AnswerError) -> bool:
    if answer.kind is ErrorKind.NOT_FOUND or answer.request_id:
        return True
    document = dict_or_empty(answer.body)
    error = dict_or_empty(document.get("error"))
    codes = {str(each.get("code")).casefold() for each in (document, error)}
    return (
        error.get("type") == OWN_ERROR_TYPE
        or bool(codes & (QUOTA_CODES | RELAY_FAILURE_CODES))
        or SATURATION.search(answer.message) is not None
    )
