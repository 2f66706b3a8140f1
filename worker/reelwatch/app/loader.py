"""What Celery would read of the environment by itself, and must not: it is a producer's.

`CELERY_BROKER_URL` would go before `BROKER_URL`, and the module that `CELERY_CONFIG_MODULE` names
would be imported and its settings mixed with ours.
"""

import os
from typing import Any

from celery.loaders.app import AppLoader

FOREIGN = (
    "CELERY_BROKER_URL",
    "CELERY_BROKER_READ_URL",
    "CELERY_BROKER_WRITE_URL",
    "CELERY_RESULT_BACKEND",
    "CELERY_CONFIG_MODULE",
)


class Loader(AppLoader):
    """Celery's own, but for the environment."""

    def read_configuration(self, env: str = "CELERY_CONFIG_MODULE") -> Any:
        """None: there is no configuration but ours. Called once, before any of it is used."""
        for name in FOREIGN:
            os.environ.pop(name, None)
