"""By the syntax tree of every module: nothing unpickles, evaluates, starts a shell, or trusts code from a file."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULES = [*sorted((ROOT / "hf_cl").rglob("*.py")), *sorted((ROOT / "recipes").rglob("*.py"))]

FORBIDDEN_IMPORTS = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "runpy", "code"}
FORBIDDEN_CALLS = {
    *("torch.load", "torch.save", "torch.jit.load", "torch.hub.load", "np.load", "numpy.load", "yaml.load", "yaml.unsafe_load"),
    *(
        "yaml.full_load",
        "os.system",
        "os.popen",
        "eval",
        "exec",
        "compile",
        "__import__",
        "accelerator.save_state",
        "accelerator.load_state",
    ),
}
ALLOWED = {
    ("hf_cl/demo/__init__.py", "subprocess.run"),  # the demo's own command line, without a shell
    ("hf_cl/tuning/job.py", "subprocess.run"),  # `hf-cl train` of a study, without a shell
    ("hf_cl/app/lessons.py", "subprocess.Popen"),  # `hf-cl train` of a lesson, without a shell
    # statements of the package's own modules, or of a file the user gave by --import: what importing them would run
    ("hf_cl/run/source.py", "exec"),
    ("hf_cl/run/source.py", "compile"),
}
"""(file, call) that starts another process, or runs code that is the user's own."""
ALLOWED_IMPORTS = {"UnpicklingError", "Parallel", "delayed"}
"""Names of a forbidden library that read nothing: an error, and joblib's way to wait for several runs."""


def name_of(node: ast.expr) -> str:
    return f"{name_of(node.value)}.{node.attr}" if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else "?"


def calls(path: Path) -> list[ast.Call]:
    return [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_module_reads_code(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            assert not {alias.name.split(".")[0] for alias in node.names} & FORBIDDEN_IMPORTS
        elif isinstance(node, ast.ImportFrom):
            harmless = {alias.name for alias in node.names} <= ALLOWED_IMPORTS
            assert harmless or (node.module or "").split(".")[0] not in FORBIDDEN_IMPORTS
    for call in calls(path):
        name = name_of(call.func)
        if name in FORBIDDEN_CALLS or name.startswith("subprocess."):
            assert (str(path.relative_to(ROOT)), name) in ALLOWED, f"line {call.lineno}: {name}"
        keywords = {keyword.arg: keyword.value for keyword in call.keywords}
        for argument in ("shell", "allow_pickle", "trust_remote_code", "weights_only"):
            value = keywords.get(argument)
            assert value is None or (isinstance(value, ast.Constant) and value.value is False), f"line {call.lineno}: {argument}"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_what_transformers_loads_brings_no_code(path):
    for call in calls(path):
        owner, _, method = name_of(call.func).rpartition(".")
        if method == "from_pretrained" and owner.rpartition(".")[2].startswith("Auto"):
            assert "trust_remote_code" in {keyword.arg for keyword in call.keywords}, f"line {call.lineno}"


def test_modules_are_imported_by_names_of_our_own():
    users = {str(path.relative_to(ROOT)) for path in MODULES for call in calls(path) if name_of(call.func) == "importlib.import_module"}
    assert users == {"hf_cl/__init__.py", "hf_cl/run/__init__.py", "hf_cl/own_parts.py"}  # the last imports what the user names
