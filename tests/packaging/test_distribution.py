"""What a user gets from `pip install`: the wheel has what the package reads, nothing else, and a command that starts."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import hf_cl

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "hf_cl"
MEGABYTES = 18
"""Weights of the demo's two backbones are 16 of them: a ViT of 5 and a CLIP of 11, without which no CLIP command runs offline."""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from a copy of what is under version control, or would be: a build leaves files beside its source."""
    out, source = tmp_path_factory.mktemp("dist"), tmp_path_factory.mktemp("source")
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode != 0:
        pytest.skip("not a git checkout, so nobody says which files belong to the project")
    for name in (line for line in listed.stdout.splitlines() if (ROOT / line).is_file()):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(source)]
    subprocess.run(command, check=True, capture_output=True)
    return next(out.glob("*.whl"))


def test_the_wheel_is_the_package_and_its_files(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    info = f"hf_cl-{hf_cl.__version__}.dist-info/"
    assert {name.split("/")[0] for name in names} == {"hf_cl", "hf_cl_command.py", info.rstrip("/")}
    files = [path for path in PACKAGE.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert {str(path.relative_to(ROOT)) for path in files} <= names
    assert wheel.stat().st_size < MEGABYTES * 2**20


def test_the_description_renders_where_packages_are_shown(wheel):
    subprocess.run([sys.executable, "-m", "twine", "check", "--strict", str(wheel)], check=True, capture_output=True)


def test_an_installed_wheel_has_the_command_and_its_configs(wheel, tmp_path):
    site = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(site), str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    environment = {**os.environ, "PYTHONPATH": str(site)}
    show = "import hf_cl_command, hf_cl, hf_cl.run; print(hf_cl.__file__); print(hf_cl.run.config_names('ovor'))"
    shown = subprocess.run([sys.executable, "-c", show], cwd=tmp_path, env=environment, check=True, capture_output=True, text=True)
    where, configs = shown.stdout.splitlines()
    assert where.startswith(str(site))
    assert "demo" in configs
    assert (site / "bin" / "hf-cl").exists()
