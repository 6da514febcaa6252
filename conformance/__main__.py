"""Runs peft's tests on hf_cl's adapter types and prints what passed, failed and was skipped, per type and model family."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import pytest

from conformance.report import Tally
from conformance.source import unpacked_source

ROOT = Path(__file__).parents[1]


def main() -> int:
    """The exit status: 1 where a test failed without an explanation, or passed in spite of one."""
    parser = argparse.ArgumentParser(prog="python -m conformance", description=__doc__)
    parser.add_argument("-k", default="", metavar="WORDS", help="pytest's -k: run the cases and tests whose names match, e.g. SARA")
    parser.add_argument("-n", default="0", metavar="N", help="processes, or auto")
    arguments = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"  # the models' names are no repositories
    source = unpacked_source()
    tally = Tally()
    options = ["-c", os.devnull, "--rootdir", str(source), "-o", f"pythonpath={source} {ROOT}", "-p", "no:cacheprovider"]
    options += ["--tb", "short", "-q", "-W", "ignore", "-n", arguments.n, "-k", arguments.k]
    pytest.main([*options, str(Path(__file__).with_name("suite.py"))], plugins=[tally])
    sys.stdout.write(f"{tally.table()}\n")
    return 0 if tally.clean else 1


if __name__ == "__main__":
    sys.exit(main())
