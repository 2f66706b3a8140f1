"""TLS to the broker: what a URL says about it, in any client's spelling. Checked unless it says no.

Kombu takes any certificate where a URL says nothing, and knows some spellings only.
"""

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

CHECKS = {"none": ssl.CERT_NONE, "optional": ssl.CERT_OPTIONAL, "required": ssl.CERT_REQUIRED}
FILES = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
PARAMETERS = (*FILES, "ssl_cert_reqs", "ssl_check_hostname")
FLAGS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


@dataclass(frozen=True, slots=True)
class Broker:
    """A broker's URL without what it says about TLS, and that as Celery's `broker_use_ssl`."""

    url: str
    use_ssl: dict[str, Any] | None  # None: no TLS

    @property
    def unchecked(self) -> bool:
        """Would any server be taken for the broker?"""
        return self.use_ssl is not None and ssl.CERT_NONE in self.use_ssl.values()


def read(value: str) -> Broker:
    """What a URL, or several with `;` between, says. ValueError with what is accepted."""
    places = value.split(";")
    bare, given = zip(*(_split(place) for place in places), strict=True)
    options = _options(given[0])
    if not places[0].startswith(("rediss:", "amqps:")):
        return Broker(";".join(bare), None)
    if places[0].startswith("amqps:"):  # its client has the names without prefix, and no such flag
        options.pop("ssl_check_hostname", None)
        options = {name.removeprefix("ssl_"): setting for name, setting in options.items()}
    return Broker(";".join(bare), options)


def _split(url: str) -> tuple[str, dict[str, str]]:
    """The URL with what else it asks for, and what it says about TLS."""
    place, mark, query = url.partition("?")
    parts = query.split("&") if mark else []
    others = [part for part in parts if not part.startswith("ssl_")]
    ours = [part for part in parts if part.startswith("ssl_")]
    return "?".join(filter(None, (place, "&".join(others)))), dict(parse_qsl("&".join(ours)))


def _options(given: dict[str, str]) -> dict[str, Any]:
    if odd := sorted(set(given) - set(PARAMETERS)):
        raise ValueError(f"behind the ? {', '.join(PARAMETERS)}, not {odd[0]}")
    options: dict[str, Any] = {"ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_check_hostname": True}
    for name, text in given.items():
        options[name] = _option(name, text)
    return options


def _option(name: str, text: str) -> Any:
    if name in FILES:
        if not Path(text).is_file():
            raise ValueError(f"{name}: a file that is there, not {text}")
        return text
    known: dict[str, Any] = FLAGS if name == "ssl_check_hostname" else dict(CHECKS)
    word = text.casefold().removeprefix("cert_")
    if word not in known:
        raise ValueError(f"{name}: {', '.join(known)}")
    return known[word]
