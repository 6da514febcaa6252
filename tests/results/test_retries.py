"""A command without a network says one line per try."""

from __future__ import annotations

import logging

import huggingface_hub.utils._http as http
import pytest

from hf_cl.results.retries import LOGGER, OneLinePerRetry, one_line_per_retry


@pytest.fixture
def filtered():
    one_line_per_retry()
    one_line_per_retry()  # twice is once
    logger = logging.getLogger(LOGGER)
    mine = [one for one in logger.filters if isinstance(one, OneLinePerRetry)]
    assert len(mine) == 1
    yield
    logger.removeFilter(mine[0])


def test_one_line_per_try_and_none_twice(filtered, monkeypatch, capfd):
    monkeypatch.setattr(http.time, "sleep", lambda seconds: None)
    with pytest.raises(Exception, match="refused"):
        http.http_backoff("HEAD", "http://127.0.0.1:9/me/base/config.json?signature=secret", max_retries=2)
    lines = [line for line in capfd.readouterr().err.splitlines() if line]
    assert len(lines) == 2, lines
    assert all(line.startswith("WARNING no answer from http://127.0.0.1:9 (") for line in lines), lines
    assert [line.rpartition("(")[2] for line in lines] == ["1 of 2)", "2 of 2)"]


def test_other_notes_pass(filtered, caplog):
    with caplog.at_level(logging.WARNING, LOGGER):
        logging.getLogger(LOGGER).warning("something else")
    assert "something else" in caplog.text
