"""Whose certificates are believed: the usual authorities', and those that the environment names.

`SSL_CERT_FILE` and the like are what other programs of the machine are told of a private authority
by. What they name is trusted besides the usual authorities, not in their place: upstream and
receivers on the public internet have certificates of those, which a private bundle lacks.
"""

import os
import ssl
from collections.abc import Iterable, Iterator, Mapping

from reelwatch.errors import SettingsError

VARIABLES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")


def named(environ: Mapping[str, str] = os.environ) -> Iterator[tuple[str, str]]:
    """Each file or folder of certificates, with the variable that names it."""
    for name in VARIABLES:
        value = environ.get(name, "")
        paths = value.split(os.pathsep) if name == "SSL_CERT_DIR" else [value]
        yield from ((name, path) for path in paths if path)


def check() -> None:
    """Raise `SettingsError`, which names the variable, for what can't be read or holds none."""
    try:
        extend(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
    except ValueError as error:
        raise SettingsError(str(error)) from None


def places(usual: str) -> tuple[list[str], list[str]]:
    """The files and the folders of the usual authorities and the environment's. Raises ValueError.

    What can't be read would otherwise be noticed at the first connection, and not be named.
    """
    extend(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
    return parted([usual, *(path for _, path in named())])


def parted(paths: Iterable[str]) -> tuple[list[str], list[str]]:
    """The files among these, and the folders."""
    files: list[str] = []
    folders: list[str] = []
    for path in dict.fromkeys(paths):
        (folders if os.path.isdir(path) else files).append(path)
    return files, folders


def extend(context: ssl.SSLContext) -> None:
    """Have a context trust those that the environment names. Raises ValueError."""
    for name, path in named():
        try:
            if os.path.isdir(path):
                os.listdir(path)
                context.load_verify_locations(capath=path)
            else:
                context.load_verify_locations(cafile=path)
        except OSError as error:  # ssl's errors are such, too
            empty = isinstance(error, ssl.SSLError)
            reason = "no certificate is in it" if empty else error.strerror
            accepted = "a file of certificates in PEM, or a folder that `openssl rehash` has seen"
            raise ValueError(f"{name}={path!r}: {reason}; accepted: {accepted}") from None
