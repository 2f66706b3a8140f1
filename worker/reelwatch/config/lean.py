"""Loads libraries without what nothing here asks them for.

structlog takes rich and greenlet along wherever they are installed: 5 MiB of each process, and a
tenth of a second. A command that prints tables loads rich itself. Only processes of ours do this;
within a producer's these libraries are its own.
"""

import sys
from importlib import import_module

LEFT_OUT = ("rich", "greenlet")


def load_structlog() -> None:
    """Load it, as if those were not installed. Nothing happens where it is loaded already."""
    absent = [name for name in LEFT_OUT if name not in sys.modules]
    for name in absent:
        sys.modules[name] = None  # type: ignore[assignment]  # so that importing it fails
    try:
        import_module("structlog")
    finally:
        for name in absent:
            del sys.modules[name]
