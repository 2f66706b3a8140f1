"""Redis as the broker: one that others share, and that may be full, read-only or away.

Celery takes a message off its list first and writes it down as unacknowledged then. In between it
is nowhere: a process that is killed there, a connection that is cut, or a Redis that has no room
for the second step loses it. Here the intake's messages move in one script, or not at all. What
work's queue holds are nudges; those need no such care.
"""

import logging
import time
from collections.abc import Iterable, Sequence
from queue import Empty
from typing import Any
from uuid import uuid4

import structlog
from kombu.transport import redis, virtual
from kombu.utils.encoding import bytes_to_str
from kombu.utils.json import loads
from redis.exceptions import RedisError

from reelwatch.app.messages import INTAKE, tell_refused

# Keys of our own: with kombu's, which all apps of a database share, each would hand out again what
# a worker of the other's is still at.
KEYS = {
    "unacked_key": "reelwatch.unacked",
    "unacked_index_key": "reelwatch.unacked_index",
    "unacked_mutex_key": "reelwatch.unacked_mutex",
}
WAKE = "reelwatch.wake"  # no such list ever exists: to wait for it is to sleep
WAIT_SECONDS = 0.5  # for a nudge, before the intake is asked again
AGAIN_SECONDS = 10  # until a message that a worker gave back is handed out again
SWEEP_SECONDS = 5.0  # between searches for messages that are to be handed out again
SWEPT = 100  # of them at once
SHOWN = 200  # characters of what was refused

logger = structlog.get_logger(__name__)

# Each script refuses to begin where Redis has no room or can't be written to, and is done as a
# whole otherwise. Times are Redis's own: the machines' clocks may differ.
#
# KEYS: unacked, index, lists; ARGV: tag, seconds until it is handed out again, and for each list
# whether its messages are kept until they are acknowledged.
TAKE = """
for i = 3, #KEYS do
  local item = redis.call('LINDEX', KEYS[i], -1)
  if item then
    if ARGV[i] == '1' then
      local due = redis.call('TIME')[1] + ARGV[2]
      redis.call('HSET', KEYS[1], ARGV[1], KEYS[i] .. '\\n' .. item)
      redis.call('ZADD', KEYS[2], due, ARGV[1])
    end
    redis.call('RPOP', KEYS[i])
    return {KEYS[i], item}
  end
end
"""
# What was kept and is no message of the intake's is dropped, and returned to be told: one such
# entry must not hold up those behind it.
PUT_BACK = """
local refused = {}
local function put_back(tag)
  local kept = redis.call('HGET', KEYS[1], tag)
  if kept then
    local at = string.match(kept, '^reelwatch[^.\\n]*()\\n')
    if at then
      redis.call('RPUSH', string.sub(kept, 1, at - 1), string.sub(kept, at + 1))
    else
      refused[#refused + 1] = string.sub(kept, 1, 200)
    end
  end
  redis.call('HDEL', KEYS[1], tag)
  redis.call('ZREM', KEYS[2], tag)
end
"""
# KEYS: unacked, index; ARGV: tag.
GIVE_BACK = PUT_BACK + "put_back(ARGV[1]) return refused"
# KEYS: unacked, index; ARGV: how many at once.
SWEEP = (
    PUT_BACK
    + """
local now = redis.call('TIME')[1]
local due = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now, 'LIMIT', 0, ARGV[1])
for _, tag in ipairs(due) do put_back(tag) end
return refused
"""
)
# KEYS: index; ARGV: tag, seconds from now.
POSTPONE = "redis.call('ZADD', KEYS[1], 'XX', redis.call('TIME')[1] + ARGV[2], ARGV[1])"


class QoS(redis.QoS):
    """What is under way. Whatever Redis answers, a message is acknowledged, or comes again."""

    channel: Any  # what is kombu's own, and its type stubs leave out
    _delivered: Any
    _quick_ack: Any
    _swept_at = float("-inf")

    def append(self, message: Any, delivery_tag: str) -> None:
        """It is written down already."""
        virtual.QoS.append(self, message, delivery_tag)

    def ack(self, delivery_tag: str) -> None:
        """Forget the message. If that fails it comes again, which harms nothing."""
        self.channel.forget(delivery_tag)
        self._quick_ack(delivery_tag)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        """Forget it, or have it handed out again in a while: what failed now would fail at once."""
        if requeue:
            self._postpone(delivery_tag)
        else:
            self.channel.forget(delivery_tag)
        self._quick_ack(delivery_tag)

    def restore_by_tag(self, tag: str, client: Any = None, leftmost: bool = False) -> None:
        """Put it back into its queue. If that fails it is put back later."""
        if is_kept(tag):
            self._put_back(GIVE_BACK, tag)

    def restore_unacked(self, client: Any = None) -> None:
        """At the end of a connection: put back what nobody has acknowledged on it."""
        for tag in list(self._delivered):
            self.restore_by_tag(tag)
        self._delivered.clear()

    def restore_visible(self, start: int = 0, num: int = 10, interval: int = 10) -> None:
        """Put back what no worker has acknowledged in time."""
        if time.monotonic() - self._swept_at < SWEEP_SECONDS:
            return
        self._swept_at = time.monotonic()
        self._put_back(SWEEP, SWEPT, level=logging.WARNING)  # else it fails for good, unseen

    def _put_back(self, script: str, what: str | int, level: int = logging.DEBUG) -> None:
        keys = self.unacked_key, self.unacked_index_key
        for refused in self._ask(script, *keys, args=[what], level=level) or ():
            tell_refused(f"no message, and kept as one: {bytes_to_str(refused)!r}"[:SHOWN])

    def _postpone(self, tag: str) -> None:
        if is_kept(tag):
            self._ask(POSTPONE, self.unacked_index_key, args=[tag, AGAIN_SECONDS])

    def _ask(
        self, script: str, *keys: str, args: list[Any], level: int = logging.DEBUG
    ) -> Sequence[bytes] | None:
        try:
            with self.channel.conn_or_acquire() as client:
                answer: Sequence[bytes] | None = client.eval(script, len(keys), *keys, *args)
                return answer
        except (RedisError, OSError) as error:
            logger.log(level, "redis_refused", error=str(error))
            return None


class Channel(redis.Channel):
    """Takes messages so that none is lost on the way; drops what is no message at all."""

    QoS = QoS

    connection_errors: Any  # what is kombu's own, and its type stubs leave out
    conn_or_acquire: Any
    _closing: bool
    _q_for_pri: Any
    _queue_cycle: Any

    _publisher: Any = None
    _tag: str | None = None  # of what is being taken; None: a nudge is being waited for
    _empty = False  # whether nothing was there last time

    def _create_client(self, asynchronous: bool = False) -> Any:
        """One client for what is published: to make one anew takes as long as a message does."""
        if asynchronous:
            return super()._create_client(asynchronous)  # type: ignore[misc]  # not in its stubs
        if self._publisher is None or self._publisher.connection_pool is not self.pool:
            self._publisher = super()._create_client()  # type: ignore[misc]
        return self._publisher

    def _brpop_start(self, timeout: float | None = None) -> None:
        queues = self._queue_cycle.consume(len(self.active_queues))
        if not queues:
            return
        self._in_poll = self.client.connection
        self._brpop_sent_at = time.monotonic()
        lists = [
            (queue, self._q_for_pri(queue, p)) for p in self.priority_steps for queue in queues
        ]
        self.client.connection.send_command(
            *self._wait(lists) if self._empty else self._take(lists)
        )

    def _take(self, lists: Iterable[tuple[str, str]]) -> list[Any]:
        self._tag = f"{KEPT}{uuid4()}"
        keys = [self.unacked_key, self.unacked_index_key, *(key for _, key in lists)]
        kept = [int(queue == INTAKE) for queue, _ in lists]
        return ["EVAL", TAKE, len(keys), *keys, self._tag, int(self.visibility_timeout), *kept]

    def _wait(self, lists: Iterable[tuple[str, str]]) -> list[Any]:
        self._tag = None
        return [
            "BRPOP",
            *([key for queue, key in lists if queue != INTAKE] or [WAKE]),
            WAIT_SECONDS,
        ]

    def _brpop_read(self, **options: Any) -> bool:
        tag, waited = self._tag, self._tag is None
        try:
            found = self._answer("BRPOP" if waited else "EVAL", **options)
            self._empty = not found and not waited
            if not found:
                raise Empty
            key, item = found
            queue = bytes_to_str(key).rsplit(self.sep, 1)[0]
            self._queue_cycle.rotate(queue)
            self._deliver(queue, item, tag if queue == INTAKE and tag else str(uuid4()))
            return True
        finally:
            self._in_poll = None
            getattr(self, "_flush_brpop_reauth", bool)()  # from kombu 5.6 on

    def _answer(self, command: str, **options: Any) -> Any:
        try:
            return self.client.parse_response(self.client.connection, command, **options)
        except self.connection_errors:
            self.client.connection.disconnect()  # the next time it connects anew
            raise

    def _deliver(self, queue: str, item: bytes, tag: str) -> None:
        if self._closing:  # nobody is there to work on it
            self._put_back(tag)
            raise Empty
        try:
            raw = loads(bytes_to_str(item))
            raw["properties"]["delivery_info"]["routing_key"]  # without an address it is none
            # Ours: senders may not choose the same tag, nor where a retry goes.
            raw["properties"]["delivery_info"] = {"exchange": "", "routing_key": queue}
            raw["properties"]["delivery_tag"] = tag
            self.connection._deliver(raw, queue)
        except (AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
            self.forget(tag)
            tell_refused(f"no message: {type(error).__name__}: {str(error)[:SHOWN]}")
            raise Empty from None  # what kombu takes for: nothing there this time

    def _restore(self, message: Any, leftmost: bool = False) -> None:
        self._put_back(message.delivery_tag)

    def _put_back(self, tag: str) -> None:
        qos: Any = self.qos
        qos.restore_by_tag(tag)

    def forget(self, tag: str) -> None:
        """The message has been done with."""
        if not is_kept(tag):
            return
        try:
            with self.conn_or_acquire() as client:
                client.hdel(self.unacked_key, tag)
                client.zrem(self.unacked_index_key, tag)
        except (RedisError, OSError) as error:
            logger.warning("not_acknowledged", error=str(error), comes_again=True)


KEPT = "kept-"


def is_kept(tag: object) -> bool:
    """Whether a message with this tag is written down until it is acknowledged."""
    return str(tag).startswith(KEPT)


def use() -> None:
    """Have this process's connections to Redis work like this."""
    redis.Transport.Channel = Channel
