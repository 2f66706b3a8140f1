"""What `doctor` finds out about the broker: it does what workers do, and names what fails."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from kombu import Connection, Exchange, Queue
from kombu.transport import redis
from redis import Redis
from redis.exceptions import NoPermissionError, OutOfMemoryError, ReadOnlyError, RedisError

from reelwatch.app import redis_queue
from reelwatch.app.messages import INTAKE, WORK
from reelwatch.config import tls
from reelwatch.errors import first_line

SECONDS = 3
OLDEST = (6, 2)
PIDBOX = "reelwatch.pidbox"
EVENTS = "reelwatchev"
TRIED = "reelwatch.doctor"  # begins as all our keys do
INSTALLATIONS = "reelwatch.app.installations"
PRIORITIES = ("", *(f"{redis.Channel.sep}{each}" for each in (3, 6, 9)))  # ends of lists' names
# All keys that workers use, by their types; the lists of messages are one for each priority.
TYPES: Mapping[str, Sequence[str]] = {
    "list": (
        *(f"{queue}{end}" for queue in (INTAKE, WORK) for end in PRIORITIES),
        redis_queue.WAKE, TRIED,
    ),
    "hash": (redis_queue.KEYS["unacked_key"], INSTALLATIONS),
    "zset": (redis_queue.KEYS["unacked_index_key"], "_kombu.binding_deadlines"),
    "set": (
        *(f"_kombu.binding.{each}" for each in (INTAKE, PIDBOX, f"reply.{PIDBOX}", EVENTS)),
        *(f"_kombu.binding_permanent.{each}" for each in (INTAKE, PIDBOX)),
    ),
}  # fmt: skip
# The very keys, in a way that changes nothing: KEYS: intake, work, unacked, index.
TOUCH = """
for i = 1, 2 do
  redis.call('LINDEX', KEYS[i], -1)
  redis.call('LTRIM', KEYS[i], 0, -1)
end
redis.call('HDEL', KEYS[3], 'doctor')
redis.call('ZREM', KEYS[4], 'doctor')
"""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it should be. `wrong`: workers can't work so."""

    what: str
    message: str
    wrong: bool = True


class Unreachable(Exception):
    """There is no such broker, or it lets nobody in; the message says why."""


def examine(url: str) -> list[Finding]:
    """All that is wrong with the broker of this URL. Raises `Unreachable`."""
    broker = tls.read(url)
    found = []
    if broker.unchecked:
        message = "its certificate is not checked (ssl_cert_reqs): anybody could stand in for it"
        found.append(Finding("tls", message, wrong=False))
    poll = _redis if url.startswith("redis") else _rabbitmq
    return [*found, *poll(broker)]


def connected(broker: tls.Broker) -> Connection:
    """A connection that is up. Raises `Unreachable`."""
    quick = {"socket_timeout": SECONDS, "socket_connect_timeout": SECONDS}
    connection = Connection(
        broker.url,
        ssl=broker.use_ssl or False,
        connect_timeout=SECONDS,
        transport_options=quick if broker.url.startswith("redis") else {},
    )
    try:
        connection.ensure_connection(max_retries=1, timeout=SECONDS)
    except Exception as error:  # each transport's client raises errors of its own
        with suppress(Exception):
            connection.release()
        raise Unreachable(str(error) or type(error).__name__) from None
    return connection


# ------------------------------------------------------------------- Redis


def _redis(broker: tls.Broker) -> Iterator[Finding]:
    with closing(connected(broker)) as connection:
        channel: Any = connection.default_channel
        client: Redis = channel.client
        yield from _server(client)
        database = client.connection_pool.connection_kwargs.get("db") or 0
        foreign = list(_foreign(client, database))
        yield from foreign
        for what, step in _steps(client, database) if not foreign else ():
            try:
                step()
            except (RedisError, OSError) as error:
                yield Finding(what, _said(error))
                if isinstance(error, OutOfMemoryError | ReadOnlyError):
                    return  # all that follows would say the same


def _server(client: Redis) -> Iterator[Finding]:
    try:
        info = client.info()
    except RedisError:
        message = "the user may not run INFO: nothing is known of its version and its eviction"
        yield Finding("settings", message, wrong=False)
        return
    version = str(info.get("redis_version", "0"))
    if tuple(int(part) for part in version.split(".")[:2]) < OLDEST:
        yield Finding("version", f"Redis {version} is too old: 6.2 or newer is needed")
    if info.get("cluster_enabled") == 1:
        yield Finding("cluster", "a Redis Cluster can't be a broker of Celery's: use a single one")
    yield from _eviction(str(info.get("maxmemory_policy", "noeviction")))


def _foreign(client: Any, database: int) -> Iterator[Finding]:
    """Keys with our names that hold something else: each step that meets one fails."""
    wanted = [(key, kind) for kind, keys in TYPES.items() for key in keys]
    with client.pipeline(transaction=False) as pipe:
        for key, _ in wanted:
            pipe.type(key)
        found = pipe.execute(raise_on_error=False)  # a user who may not ask is told of by the steps
    for (key, kind), is_one in zip(wanted, found, strict=True):
        if isinstance(is_one, bytes) and is_one not in (b"none", kind.encode()):
            message = (
                f"database {database} has a {is_one.decode()} of this name, where workers need a "
                f"{kind}: somebody else uses the name. Give Reelwatch a database of its own, by "
                "another number in BROKER_URL (redis://…/1), or delete the key if nobody needs it"
            )
            yield Finding(f"key {key}", message)


def _eviction(policy: str) -> Iterator[Finding]:
    if policy.startswith("allkeys"):
        message = (
            f"it evicts messages when it is full: maxmemory-policy is {policy}, not noeviction"
        )
        yield Finding("eviction", message)
    elif policy != "noeviction":
        message = f"maxmemory-policy is {policy}: noeviction is what a broker needs"
        yield Finding("eviction", message, wrong=False)


Step = tuple[str, Callable[[], object]]


def _steps(client: Any, database: int) -> Iterator[Step]:
    """What a worker does, in the order in which it does it; nothing stays behind."""
    unacked, index, _ = redis_queue.KEYS.values()
    topic, tag = f"/{database}.{PIDBOX}", f"kept-{uuid4()}"

    def listen() -> None:
        with client.pubsub() as listener:
            listener.psubscribe(topic)
            listener.get_message(timeout=SECONDS)
            listener.punsubscribe(topic)

    def bind() -> None:
        with client.pipeline(transaction=True) as pipe:
            pipe.srem(f"_kombu.binding.{PIDBOX}", "doctor")
            pipe.srem(f"_kombu.binding_permanent.{PIDBOX}", "doctor")
            pipe.exists(f"doctor.{PIDBOX}{redis.Channel.sep}3")  # a node's own queue, by priority
            pipe.execute()

    def take() -> None:
        client.lpush(TRIED, "{}")
        client.eval(redis_queue.TAKE, 3, unacked, index, TRIED, tag, "60", "1")
        client.hdel(unacked, tag)
        client.zrem(index, tag)

    yield "write", take
    yield "queues", lambda: client.eval(TOUCH, 4, INTAKE, WORK, unacked, index)
    yield "wait", lambda: client.brpop([redis_queue.WAKE], 0.01)
    yield "bindings", bind
    yield "subscribe", listen
    yield "publish", lambda: client.publish(f"/{database}.{EVENTS}/doctor", "")


def _said(error: Exception) -> str:
    said = str(error).removesuffix(".")
    if isinstance(error, OutOfMemoryError):
        return "it is full (maxmemory): new ids wait with their senders until it has room"
    if isinstance(error, ReadOnlyError):
        return "it is a read-only replica: BROKER_URL has to name the one that is written to"
    if isinstance(error, NoPermissionError) or said == "EXEC without MULTI":
        return f"its user lacks a right ({said}): docs/broker.md has all that are needed"
    return f"it refuses: {said}"


# ---------------------------------------------------------------- RabbitMQ


def _rabbitmq(broker: tls.Broker) -> Iterator[Finding]:
    with closing(connected(broker)) as connection:
        control = Queue("", Exchange(PIDBOX, "fanout", durable=False), exclusive=True)
        ours = Exchange(INTAKE, "direct")
        queues = [(f"queue {name}", Queue(name, ours, name)) for name in (INTAKE, WORK)]
        for what, queue in [*queues, ("control exchange", control)]:
            try:
                channel: Any = connection.channel()
                with closing(channel):
                    queue(channel).declare()
            except Exception as error:  # its client's
                yield Finding(what, f"it can't be declared as workers do: {first_line(error)}")
                connection.collect()
