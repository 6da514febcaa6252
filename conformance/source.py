"""The source distribution of the installed peft, which holds peft's tests: downloaded once, checked by hash, unpacked outside the code."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tarfile
from importlib.metadata import version
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "build" / "conformance"
SHA256 = {"0.21.2": "b803ccfb3f3f316004d850284306687833a2235ea278fb56abc856203456142e"}
"""peft version -> hash of its source distribution on PyPI."""


def unpacked_source() -> Path:
    """The unpacked source of the installed version of peft.

    Raises RuntimeError for a version without a pinned hash, a failed download, or a file with another hash.
    """
    installed = version("peft")
    if installed not in SHA256:
        raise RuntimeError(
            f"The installed peft is {installed}; the suite is known for {', '.join(SHA256)}. Check the tests of the new version, then add "
            "the hash of its source distribution to conformance/source.py."
        )
    source = FOLDER / f"peft-{installed}"
    archive = source.with_name(f"{source.name}.tar.gz")
    if not archive.exists():
        _download(installed)
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    if found != SHA256[installed]:
        raise RuntimeError(f"{archive} has SHA-256 {found}, not the pinned {SHA256[installed]}. Delete it to download it again.")
    if not (source / "tests" / "__init__.py").exists():
        with tarfile.open(archive) as tar:
            tar.extractall(FOLDER, filter="data")
        (source / "tests" / "__init__.py").touch()  # the tests import one another relatively
    return source


def _download(wanted: str) -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", "peft", "--no-build-isolation"]
    done = subprocess.run([*command, "--dest", str(FOLDER), f"peft=={wanted}"], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"pip could not download the source of peft {wanted}: {done.stderr.strip()[-500:]}")
