"""The errors that a caller of Reelwatch branches on. Their text is what users read."""


class ReelwatchError(Exception):
    """Base of every error that Reelwatch raises on purpose.

    `said`: what is wrong. `at_command`: what whoever types commands may do about it, if anything.
    The text has both; where nobody types commands, `said` is shown alone.
    """

    def __init__(self, said: str = "", *, at_command: str = "") -> None:
        super().__init__(f"{said}; {at_command}" if at_command else said)
        self.said = said
        self.at_command = at_command


class Refused(ReelwatchError):
    """What was handed in is not acceptable; the message says which part and why. Not stored."""


class NotConfigured(Refused):
    """This process's configuration does not permit it, and another one could.

    An account that no configuration has named so far, or a callback URL that an entry of
    WEBHOOK_ALLOW would open. Everything else that is `Refused` nobody could accept.
    """


class HasEnded(Refused):
    """What is asked for is not possible with a job that has ended; the message says what is."""


class CursorTooOld(ReelwatchError):
    """Events behind this cursor of the feed are gone; `next` is the cursor to go on with."""

    def __init__(self, message: str, next: str) -> None:
        """`next`: it repeats nothing that was read, and knows that events are gone."""
        super().__init__(message)
        self.next = next


class UnknownJob(ReelwatchError):
    """No job with this id is tracked for this account."""


class SettingsError(ReelwatchError):
    """A setting is missing or wrong; the message names it, its value and what is accepted."""


class NotMigrated(ReelwatchError):
    """The tables are not there, not all of them, or older than this program.

    The message says what to do: `reelwatch migrate`, or REELWATCH_SCHEMA as workers have it.
    """


class NotOurs(ReelwatchError):
    """Tables are in the way that are somebody else's; the message says which, and what to do."""


def first_line(error: BaseException) -> str:
    """What an error says, in one line; its kind where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
