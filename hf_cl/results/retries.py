"""What huggingface_hub says while it tries again: one line per try. By itself it says two, and each reaches a screen twice."""

from __future__ import annotations

import logging
import re
import sys

LOGGER = "huggingface_hub.utils._http"
_FAILED = re.compile(r"'(?P<cause>.*)' thrown while requesting \w+ (?P<where>\w+://[^/?]+)", re.DOTALL)
_AGAIN = re.compile(r"Retrying in (?P<seconds>[\d.]+)s \[Retry (?P<number>\d+)/(?P<of>\d+)\]\.")


class OneLinePerRetry(logging.Filter):
    """Keeps both notes of a try from all handlers, and writes one line instead."""

    cause, where = "it did not answer", "The Hub"

    def filter(self, record: logging.LogRecord) -> bool:
        said = record.getMessage()
        if failed := _FAILED.search(said):
            self.cause, self.where = failed["cause"].strip().partition("\n")[0], failed["where"]
            return False
        if again := _AGAIN.search(said):
            count = f"{again['number']} of {again['of']}"
            sys.stderr.write(f"WARNING no answer from {self.where} ({self.cause}); trying again in {again['seconds']} s ({count})\n")
            return False
        return True


def one_line_per_retry() -> None:
    """Once per process."""
    logger = logging.getLogger(LOGGER)
    if not any(isinstance(one, OneLinePerRetry) for one in logger.filters):
        logger.addFilter(OneLinePerRetry())
