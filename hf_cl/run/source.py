"""What stands in a source file, without importing what the file imports.

A method's file imports torch, which takes seconds; its settings need none of it. So the statements that a name takes (its class, the
constants of its defaults, the classes it inherits from, in other files of the package too) are run alone. The class that comes out has the
same fields, defaults, types and checks; what its `method` builds is not there. Where a name takes more than that, nothing comes out, and
the file is imported as it is.
"""

from __future__ import annotations

import ast
import builtins
import sys
from collections.abc import Iterator
from functools import cache
from importlib.machinery import PathFinder
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

PACKAGE = Path(__file__).parents[1]
_AS_IT_IS = frozenset({"hf_cl.settings", "hf_cl.secrets", "hf_cl.hints", "hf_cl.errors", "pydantic", "yaml"})
"""What is imported: light, and the same objects as everybody else's."""
_BUILDS = "method"
"""The method of a settings class that may use everything: it is never called here."""


class NotReadableError(Exception):
    """A name takes more than constants, functions and classes of light modules."""


@cache
def read(path: Path, *names: str) -> ModuleType:
    """A module with the top-level `names` of a file, and what they take.

    Raises NotReadableError where that is too much, where a name is not there, and for what is no Python.
    """
    reader = _Reader(path, names)
    for name in names:
        reader.take(name)
    return reader.module


def keys_of(path: Path, registry: str) -> dict[str, str]:
    """Key -> name of the value, of a dictionary that a file writes down with plain keys; entries added by `registry[key] = Name` too.

    Raises NotReadableError for a file that is no Python.
    """
    found: dict[str, str] = {}
    for statement in _tree(path).body:
        if isinstance(statement, ast.Assign | ast.AnnAssign):
            target = statement.target if isinstance(statement, ast.AnnAssign) else statement.targets[0]
            if isinstance(target, ast.Name) and target.id == registry and isinstance(statement.value, ast.Dict):
                pairs = zip(statement.value.keys, statement.value.values, strict=True)
                found |= {str(key.value): ast.unparse(value) for key, value in pairs if isinstance(key, ast.Constant)}
            elif isinstance(target, ast.Subscript) and isinstance(target.slice, ast.Constant) and statement.value is not None:
                added = ast.unparse(target.value).split(".")[-1] == registry
                found |= {str(target.slice.value): ast.unparse(statement.value)} if added else {}
    return found


def module_path(dotted: str) -> Path | None:
    """The file of a module, found without importing its packages; None where there is none."""
    first, *inside = dotted.split(".")
    try:
        spec = find_spec(first)  # by every finder: an editable install has one of its own
    except ValueError:  # a module that says nothing of where it comes from
        return None
    for part in inside:
        if spec is None or spec.submodule_search_locations is None:
            return None
        spec = PathFinder.find_spec(part, spec.submodule_search_locations)
    return Path(spec.origin) if spec is not None and spec.origin and spec.origin.endswith(".py") else None


def _tree(path: Path) -> ast.Module:
    try:
        return ast.parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, SyntaxError) as error:
        raise NotReadableError(f"{path}: {error}") from error


class _Reader:
    """Runs the statements of one file that names take, each once, those they take themselves first."""

    def __init__(self, path: Path, names: tuple[str, ...]) -> None:
        self.path = path
        self.module = ModuleType(f"_source_of_{abs(hash((path, names)))}_{path.stem}")  # two readings of a file are two modules
        self.module.__file__ = str(path)
        sys.modules[self.module.__name__] = self.module  # dataclasses and pydantic look up annotations there
        self._bound: dict[str, list[ast.stmt]] = {}
        for statement in _tree(path).body:
            for name in _binds(statement):
                self._bound.setdefault(name, []).append(statement)
        self._done: set[int] = set()

    def take(self, name: str) -> None:
        if name in vars(self.module) or (name in vars(builtins) and name not in self._bound):
            return
        if name not in self._bound:
            raise NotReadableError(f"{self.path} has no {name}")
        for statement in self._bound[name]:
            if id(statement) not in self._done:
                self._done.add(id(statement))
                self._run(statement, name)

    def _run(self, statement: ast.stmt, name: str) -> None:
        if isinstance(statement, ast.Import | ast.ImportFrom):
            self._import(statement, name)
            self._done.discard(id(statement))  # another of its names may be asked for
            return
        for needed in _names(statement, at_once=True):
            self.take(needed)
        for used in _names(statement, at_once=False):
            try:
                self.take(used)
            except NotReadableError:
                continue  # a NameError, should it ever be called
        future = ast.ImportFrom("__future__", [ast.alias("annotations")], 0)
        code = ast.fix_missing_locations(ast.Module([future, statement], []))
        exec(compile(code, str(self.path), "exec"), vars(self.module))

    def _import(self, statement: ast.Import | ast.ImportFrom, name: str) -> None:
        alias = next(alias for alias in statement.names if (alias.asname or alias.name.split(".")[0]) == name)
        origin = statement.module if isinstance(statement, ast.ImportFrom) else alias.name
        if origin is None or (isinstance(statement, ast.ImportFrom) and statement.level):
            raise NotReadableError(f"{self.path}: a relative import of {name}")
        if origin in _AS_IT_IS or origin.split(".")[0] in sys.stdlib_module_names:
            single: ast.stmt = ast.ImportFrom(origin, [alias], 0) if isinstance(statement, ast.ImportFrom) else ast.Import([alias])
            exec(compile(ast.fix_missing_locations(ast.Module([single], [])), str(self.path), "exec"), vars(self.module))
            return
        path = module_path(origin) if origin.split(".")[0] == "hf_cl" and isinstance(statement, ast.ImportFrom) else None
        if path is None:
            raise NotReadableError(f"{self.path} takes {name} from {origin}")
        setattr(self.module, name, getattr(read(path, alias.name), alias.name))


def _binds(statement: ast.stmt) -> Iterator[str]:
    """The names that a top-level statement gives a value."""
    if isinstance(statement, ast.Import | ast.ImportFrom):
        yield from (alias.asname or alias.name.split(".")[0] for alias in statement.names)
    elif isinstance(statement, ast.ClassDef | ast.FunctionDef):
        yield statement.name
    elif isinstance(statement, ast.Assign | ast.AnnAssign):
        for target in statement.targets if isinstance(statement, ast.Assign) else [statement.target]:
            yield from (node.id for node in ast.walk(target) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store))


def _names(statement: ast.stmt, *, at_once: bool) -> list[str]:
    """The names a statement reads when it runs, or (not `at_once`) later, in the bodies of its functions."""
    now: list[ast.AST] = []
    later: list[ast.AST] = []
    _split(statement, now, later)
    inside = [node for part in (now if at_once else later) for node in ast.walk(part)]
    own = {node.id for node in inside if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load)}
    own |= {node.arg for node in inside if isinstance(node, ast.arg)}
    if isinstance(statement, ast.ClassDef):
        own |= {name for inner in statement.body for name in _binds(inner)}
    found = [node.id for node in inside if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)]
    return [name for name in dict.fromkeys(found) if name not in own]


def _split(statement: ast.stmt, now: list[ast.AST], later: list[ast.AST]) -> None:
    if isinstance(statement, ast.FunctionDef):
        now += [*statement.decorator_list, *statement.args.defaults, *(d for d in statement.args.kw_defaults if d is not None)]
        if statement.name != _BUILDS:
            later += statement.body
    elif isinstance(statement, ast.ClassDef):
        now += [*statement.bases, *statement.decorator_list, *(keyword.value for keyword in statement.keywords)]
        for inner in statement.body:
            _split(inner, now, later)
    else:
        now.append(statement)
