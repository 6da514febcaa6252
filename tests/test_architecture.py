"""Imports go one way (docs/architecture.md)."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "hf_cl"

# From the ground up; rooms on one line are siblings and import none of each other.
LEVELS = [
    {"contracts", "hints", "errors", "secrets", "byte_sizes", "cache_folder"},
    {"_peft", "own_parts", "pictures", "scopes", "settings"},
    {"memory"},
    {"heads"},
    {"adapters"},
    {"losses", "rules", "scenarios", "images", "metrics", "backbones"},
    {"parts", "probes"},
    {"results"},
    {"checkpoints"},
    {"training"},
    {"methods"},
    {"hub", "contrib"},
    {"run"},
    {"tuning", "data_check"},
    {"demo", "app"},
    {"cli"},
]
LEVEL = {room: i for i, rooms in enumerate(LEVELS) for room in rooms}
GROUND = {"contracts", "hints", "errors"}
SELF_CONTAINED = {
    **{room: set() for room in ("contracts", "hints", "errors", "secrets", "byte_sizes", "cache_folder")},
    "memory": GROUND,
    "heads": GROUND | {"memory"},
    "scenarios": GROUND | {"pictures", "cache_folder"},
    "images": GROUND | {"pictures"},
    "metrics": set(),
}


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_rooms(path: Path) -> set[str]:
    rooms = set()
    for node in ast.walk(tree_of(path)):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module == "hf_cl":
            names = [f"hf_cl.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
        rooms |= {name.split(".")[1] for name in names if name.startswith("hf_cl.")}
    return rooms


MODULES = [path for path in sorted(PACKAGE.rglob("*.py")) if path != PACKAGE / "__init__.py"]


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_downward(path):
    here = room_of(path)
    for room in imported_rooms(path) - {here}:
        assert LEVEL[room] < LEVEL[here], f"{here} may not import {room}"
        allowed = SELF_CONTAINED.get(here)
        assert allowed is None or room in allowed, f"{here} imports {room}; it may import {allowed}"


def test_loading_an_adapter_does_not_stand_on_the_trainer():
    for path in MODULES:
        if room_of(path) == "hub":
            assert "training" not in imported_rooms(path), f"{path} imports training"


def at_import(body):
    """Imports that run when a module is imported: none under TYPE_CHECKING or inside functions."""
    for node in body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif isinstance(node, ast.If) and "TYPE_CHECKING" not in ast.dump(node.test):
            yield from at_import([*node.body, *node.orelse])


@pytest.mark.parametrize("path", [path for path in MODULES if room_of(path) == "results"], ids=lambda p: p.name)
def test_results_know_no_torch(path):
    names = set()
    for node in at_import(tree_of(path).body):
        names |= {alias.name for alias in node.names} if isinstance(node, ast.Import) else {node.module or ""}
    assert not {name.split(".")[0] for name in names} & {"torch", "transformers", "peft", "accelerate", "safetensors"}
    assert {name.split(".")[1] for name in names if name.startswith("hf_cl.")} <= {
        "results",
        "metrics",
        "errors",
        "hints",
        "secrets",
        "settings",
    }


def test_every_room_has_a_level():
    assert {room_of(path) for path in MODULES} <= LEVEL.keys()


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_only_one_file_touches_private_parts_of_peft(path):
    if path.name == "_peft.py":
        return
    private = {"_disable_adapters", "_member_map_", "PEFT_TYPE_TO_CONFIG_MAPPING", "_hf_peft_config_loaded"}
    used = {node.attr for node in ast.walk(tree_of(path)) if isinstance(node, ast.Attribute)}
    assert not used & private


@pytest.mark.parametrize("library", ["accelerate", "datasets"])
def test_accelerate_and_datasets_have_one_user(library):
    users = set()
    for path in MODULES:
        for node in ast.walk(tree_of(path)):
            module = node.module if isinstance(node, ast.ImportFrom) else node.names[0].name if isinstance(node, ast.Import) else None
            if module and module.split(".")[0] == library:
                users.add(room_of(path))
    assert users <= {"accelerate": {"training"}, "datasets": {"scenarios"}}[library]


def test_nothing_is_unpickled():
    for path in MODULES:
        text = path.read_text()
        for forbidden in ("import pickle", "torch.load(", "torch.save(", "allow_pickle=True", "save_state(", "load_state("):
            assert forbidden not in text, f"{path}: {forbidden}"


def imports_of(path: Path, modules: dict[str, Path]) -> set[str]:
    """The package's modules that a file imports, wherever in it: inside functions and under TYPE_CHECKING too."""
    found = set()
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found |= {name if name in modules else node.module for name in names}
    return found & modules.keys()


def test_no_circle_of_imports():
    modules = {".".join(("hf_cl", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__"): path for path in MODULES}
    left = {name: imports_of(path, modules) - {name} for name, path in modules.items()}
    while free := {name for name, wanted in left.items() if not wanted & left.keys()}:
        left = {name: wanted for name, wanted in left.items() if name not in free}
    assert not left, "these import each other, or what does: " + ", ".join(f"{name} -> {sorted(left[name] & left.keys())}" for name in left)
