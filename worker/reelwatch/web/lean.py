"""Loads FastAPI without what nothing here asks it for: 3 MiB less.

It loads all of an old Pydantic to tell its models from others, and builds each of its own models at
once. Only processes of ours do this; within a producer's these libraries are its own.
"""

import sys
from importlib import import_module

from pydantic import BaseModel

OLD_MODELS = "pydantic.v1"


def load_fastapi() -> None:
    """Load it, as if there were no models of an old Pydantic, and without building its own yet.

    It looks for old ones again with each route and request, and goes on where there are none (since
    0.129): they stay absent for this process.
    """
    sys.modules.setdefault(OLD_MODELS, None)  # type: ignore[arg-type]  # importing it fails
    usual = BaseModel.model_config
    BaseModel.model_config = {**usual, "defer_build": True}
    try:
        import_module("fastapi")
    finally:
        BaseModel.model_config = usual
