"""Does what documents say, in order: code marked ```python test, cells of notebooks, and the commands of ```bash blocks.

    python run_snippets.py README.md docs/quick_start.md notebooks/quick_start.ipynb

Each document has a namespace and a folder of its own, with what a reader has: a run of the demo, some photos, a picture of a digit. There
are six digits of each class. Commands that train do so in this process, for one epoch and on digits in two sessions; a base from the Hub
is replaced by the demo's. The Hub is the one that HF_ENDPOINT names, of this machine. Runs that a comparison or an ensemble names and
nobody trained are copies of the demo's with seeds of their own; a search ends with its base, unless HF_CL_SEARCH asks for one. What needs
an environment of its own, and the page of `hf-cl app`, which ends with Ctrl-C, are left to test_docs.py, which parses every command.
"""

from __future__ import annotations

import gc
import itertools
import json
import os
import re
import shlex
import shutil
import sys
import warnings
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from hf_cl.scenarios import sources
from hf_cl.scenarios.digits import read_digits
from hf_cl.scenarios.image_set import ImageSet
from hf_cl.scenarios.image_store import ArrayStore
from hf_cl.scenarios.splits import Splits

ROOT = Path(__file__).parents[1]
PER_CLASS = 6
BLOCK = re.compile(r"^```(python test|bash)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LOOP = re.compile(r"for (\w+) in ([^;]+); do (.+); done")
ASSIGNMENT = re.compile(r"(\w+)=(\S+|\"[^\"]*\")")
TINY: dict[str, Any] = {"epochs": 1, "vor_epochs": 0, "shots": 2}
DEMO = Path("runs", "demo")
COMMANDS = ("data", "train", "predict", "report", "compare", "ensemble", "push", "evaluate", "export", "classes", "list", "env")
"""Those that are called as they stand."""


def steps(document: Path) -> Iterator[tuple[str, str]]:
    """("python", source) and ("bash", line) in the order of the document.

    Sources have as many empty lines in front as put a traceback on the document's lines.
    """
    text = document.read_text()
    if document.suffix == ".ipynb":
        yield from (("python", "".join(cell["source"])) for cell in json.loads(text)["cells"] if cell["cell_type"] == "code")
        return
    for match in BLOCK.finditer(text):
        if match[1] == "bash":
            yield from (("bash", line) for line in shell_lines(match[2]))
        else:
            yield "python", "\n" * (text[: match.start()].count("\n") + 1) + match[2]


def name_of(document: Path) -> str:
    """Of its folder: `docs-quick_start`."""
    return "-".join(document.relative_to(ROOT).with_suffix("").parts)


def shell_lines(block: str) -> Iterator[str]:
    """The commands of a block, one by one: continued lines joined, comments dropped, loops of one line unrolled, variables filled in."""
    variables: dict[str, str] = {}
    for line in block.replace("\\\n", " ").splitlines():
        command = re.sub(r"(^|\s)#.*", "", line).strip()
        if assigned := ASSIGNMENT.fullmatch(command):
            variables[assigned[1]] = assigned[2].strip('"')
        elif loop := LOOP.fullmatch(command):
            for value in loop[2].split():
                yield re.sub(rf"\$\{{?{loop[1]}\}}?", value, loop[3])
        elif command:
            yield re.sub(r"\$\{?(\w+)\}?", lambda match: variables.get(match[1], match[0]), command)


def six_of_each() -> Splits:
    """The first digits of each class, instead of `sources.read_digits`: what trains on them takes moments."""
    splits = read_digits()
    labels = splits.images["digits"].labels
    few = np.concatenate([np.flatnonzero(labels == label)[:PER_CLASS] for label in range(10)])
    store = splits.images["digits"].store
    return Splits({"digits": ImageSet(ArrayStore(np.stack([np.asarray(store.open(row)) for row in few])), labels[few])}, splits.class_names)


def what_a_reader_has(folder: Path) -> None:
    """A run of the demo for one epoch, with report and card, photos of three classes, a picture of a three."""
    folder.mkdir()
    os.chdir(folder)
    random = np.random.default_rng(0)
    for name in ("cat", "dog", "rabbit"):
        Path("my_photos", name).mkdir(parents=True)
        for number in range(6):
            Image.fromarray(random.integers(0, 256, (60, 50, 3), dtype=np.uint8)).save(Path("my_photos", name, f"{number}.png"))
    Path("order.txt").write_text("rabbit\ndog\ncat\n")
    read_digits().images["digits"].store.open(3).save("digit.png")
    train(["ovor", "--config", "demo", "--output_dir", str(DEMO)], report=True)


def train(words: list[str], report: bool = False) -> None:
    """`hf-cl train` with `words`, made small; nothing where base or data have to come from the Hub."""
    from hf_cl.methods import METHODS
    from hf_cl.run import parse_settings
    from hf_cl.run import train as fit

    if "--import" in words:  # tests/cli/test_cli_imports.py trains the example that such a command imports
        return
    method, *arguments = words
    settings: Any = parse_settings(METHODS[method], method, arguments)
    tiny = {field.name: TINY[field.name] for field in fields(settings) if field.name in TINY and getattr(settings, field.name) is not None}
    if settings.dataset == "digits" and not report:
        tiny |= {"num_base_classes": 5, "classes_per_session": 5}
    head = settings.method().adapter.head or {}
    from_hub = head.get("type") == "text" or head.get("text_model") not in (None, "demo_clip")
    if from_hub or not (settings.dataset == "digits" or Path(settings.dataset).exists()):
        return
    trainer = fit(replace(settings, backbone="demo", **tiny), quiet=True)
    if report:
        trainer.finish()


def run_command(line: str) -> None:
    """A command of a document, where it needs no environment of its own and ends by itself."""
    words = shlex.split(line)
    if words[:2] == ["accelerate", "launch"]:
        recipe = next(index for index, word in enumerate(words) if re.fullmatch(r"recipes/\w+\.py", word))
        words = ["hf-cl", "train", Path(words[recipe]).stem, *words[recipe + 1 :]]
        words = [str(ROOT / word) if word.startswith("recipes/") else word for word in words]
    if words[:2] == ["hf-cl", "train"] and "--help" not in words:
        if str(DEMO) not in words:  # which was made by this very command
            train(words[2:])
    elif words[:2] == ["hf-cl", "tune"] and "--dataset" in words:
        search(line, words)
    elif words[0] == "hf-cl" and words[1] in COMMANDS:
        if words[1] in ("compare", "ensemble"):
            copy_runs([Path(word) for word in itertools.takewhile(lambda word: not word.startswith("--"), words[2:])])
        called(line, words[1:])


def search(line: str, words: list[str]) -> None:
    """`hf-cl tune` with the base and one candidate, each a process of its own, if HF_CL_SEARCH asks for it; else the base's config is what
    it ends with."""
    if os.environ.get("HF_CL_SEARCH"):
        called(line, [*words[1:], *["--budget", "2", "--backbone", "demo", "--epochs", "1"]])
        return
    from hf_cl.run.configs import read_config
    from hf_cl.run.parse import parse_flags

    flags = {key: value for key, value in parse_flags(words[3:]).items() if key != "budget"}
    folder = Path(flags.pop("output_dir", "runs/tune"))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "best.yaml").write_text(json.dumps(read_config(words[2], flags.pop("config")) | flags))


def called(line: str, words: list[str]) -> None:
    from typer.testing import CliRunner

    from hf_cl.cli import app

    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, f"{line}: {result.output}"


def copy_runs(folders: list[Path]) -> None:
    for seed, folder in enumerate(folder for folder in folders if not folder.exists()):
        shutil.copytree(DEMO, folder)
        results = json.loads((folder / "results.json").read_text())
        (folder / "results.json").write_text(json.dumps(results | {"seed": 100 + seed}))


def main(documents: list[Path]) -> None:
    sources.read_digits = six_of_each
    sys.modules["__snippet__"] = type(sys)("__snippet__")  # dataclasses look their module up
    here = Path.cwd()
    what_a_reader_has(here / "reader")
    gc.freeze()  # what is imported by now, which the collector would look through again and again
    for document in documents:
        folder = here / name_of(document)
        shutil.copytree(here / "reader", folder)
        os.chdir(folder)
        namespace: dict[str, object] = {"__name__": "__snippet__"}
        for kind, source in steps(document):
            if kind == "bash":
                run_command(source)
            else:
                few = re.sub(r"\bshots=\d+", f"shots={TINY['shots']}", source)
                exec(compile(few, str(document), "exec"), namespace)


if __name__ == "__main__":
    warnings.simplefilter("error")
    warnings.filterwarnings("ignore", message=".is_gradient_checkpointing. is deprecated", category=FutureWarning)
    warnings.filterwarnings("ignore", message="Use 'content=", category=DeprecationWarning)  # huggingface_hub calls httpx by an old name
    main([Path(argument).resolve() for argument in sys.argv[1:]])
