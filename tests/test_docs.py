"""What the documents say is so: snippets run, and every path, link, command, setting and name is there."""

from __future__ import annotations

import dataclasses
import os
import re
import shlex
import subprocess
import sys
import tomllib
from dataclasses import fields
from functools import cache
from pathlib import Path

import pytest
import typer.main
from loopback_hub import serving
from peft import PeftType
from run_snippets import shell_lines, steps
from test_architecture import LEVELS
from typer.testing import CliRunner

from hf_cl.adapters.bases import SUPPORT, YES
from hf_cl.cli import app
from hf_cl.heads import HEADS
from hf_cl.methods import METHODS
from hf_cl.rules import RULES
from hf_cl.run import config_names, parse_settings
from hf_cl.scenarios import CLASS_ORDERS, SCENARIOS
from hf_cl.tuning.arguments import LISTS, SINGLE
from hf_cl.tuning.tune import TuneOptions

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").rglob("*.md"))
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *PAGES, *sorted((ROOT / "model_cards").glob("*.md"))]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SETTINGS = {field.name for settings in METHODS.values() for field in fields(settings)}
per_document = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))


def without_blocks(document: Path) -> str:
    return re.sub(r"^```.*?^```$", "", document.read_text(), flags=re.MULTILINE | re.DOTALL)


def inline_code(document: Path) -> list[str]:
    return re.findall(r"`([^`\n]+)`", without_blocks(document))


def commands_of(document: Path) -> list[str]:
    """Commands of bash blocks and of inline code."""
    fenced = re.findall(r"^```bash\n(.*?)^```$", document.read_text(), re.MULTILINE | re.DOTALL)
    inline = [code for code in inline_code(document) if code.split()[0] in ("hf-cl", "make", "accelerate", "pip", "python")]
    return [line for block in fenced for line in shell_lines(block)] + inline


COMMANDS = sorted({line for document in DOCUMENTS for line in commands_of(document)})
SUBCOMMANDS = getattr(typer.main.get_command(app), "commands")  # noqa: B009 (typer gives a group where there are several)
STANDS_FOR = {"RUN": "runs/demo", "RUN...": "runs/demo", "ADAPTER": "runs/demo/adapters/session-4", "DIR": "my_photos", "REPO": "me/photos"}
"""Words of the pages' commands -> what a reader has."""


# Snippets
def follow(folder: Path) -> None:
    """Follow all documents, in a process of their own and one folder each."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg", "PYTHONPATH": str(ROOT)}
    documents = [document for document in (ROOT / "README.md", *PAGES, *NOTEBOOKS) if any(steps(document))]
    command = [sys.executable, str(ROOT / "tests" / "run_snippets.py"), *map(str, documents)]
    with serving() as hub:
        environment |= {"HF_ENDPOINT": hub.url, "HF_TOKEN": "hf_loopback", "HF_HOME": str(folder / "cache"), "HF_HUB_DISABLE_XET": "1"}
        done = subprocess.run(command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout[-3000:]
    assert hub.repositories["me/photos"].tags.keys() == {"session-0", "session-1"}


def test_the_snippets_run_and_leave_what_the_pages_say(tmp_path, monkeypatch):
    """One test, so that they are run once however the suite is spread over workers."""
    follow(tmp_path)
    copied = {"ovor-0", "ovor-1", "lora-0", "lora-1"}
    compared = {f"{method}-{seed}" for method in ("means", "ovor") for seed in range(3)}
    runs = {
        "README": {"demo", "first", "ovor", "photos", "digits"} | copied,
        "docs-quick_start": {"demo", "first", "second", "means"},
        "docs-choosing_a_method": {"demo", "frozen", "model", "photos-ordered"} | compared,
        "docs-defend_a_model": {"demo", "data", "tune", "means", "lora-0", "lora-1", "lora-2", "three", "one", "compare.html"},
        "notebooks-quick_start": {"demo", "notebook"},
    }
    assert {page: {path.name for path in (tmp_path / page / "runs").iterdir()} for page in runs} == runs
    check_run_folder_of_the_readme(tmp_path / "README")
    check_run_folder_of_the_quick_start(tmp_path / "docs-quick_start")
    monkeypatch.chdir(tmp_path / "README")
    (line,) = [line for line in commands_of(ROOT / "README.md") if line.startswith("hf-cl predict")]
    result = CliRunner().invoke(app, shlex.split(line)[1:])
    assert result.exit_code == 0 and re.match(r"digit\.png: \d ", result.stdout), result.output


def check_run_folder_of_the_readme(folder: Path) -> None:
    """It is as it is drawn."""
    drawn = re.search(r"^```text\n(runs/\S+)\n(.*?)^```$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    assert drawn is not None
    names = [line.split()[0] for line in drawn[2].splitlines()]
    assert len(names) >= 7
    for name in names:
        assert (folder / drawn[1] / name).exists(), name


def check_run_folder_of_the_quick_start(folder: Path) -> None:
    """It is as it is listed."""
    section = (ROOT / "docs" / "quick_start.md").read_text().split("## What a run leaves")[1].split("\n## ")[0]
    names = [name for row in re.findall(r"^\| (`.+?) \|", section, re.MULTILINE) for name in re.findall(r"`([^`]+)`", row)]
    assert len(names) >= 7
    for name in names:
        assert (folder / "runs" / "demo" / name).exists(), name


@per_document
def test_no_python_is_left_out(document):
    assert not re.findall(r"^```python\n", document.read_text(), re.MULTILINE), "mark it: ```python test"


# Commands and settings
@pytest.mark.parametrize("line", COMMANDS)
def test_commands_exist(line, monkeypatch):
    words = shlex.split(line.split("&&")[0])
    monkeypatch.chdir(ROOT)
    if words[0] == "hf-cl" and words[1:2] not in ([], ["train"]) and not words[1].startswith("--"):
        check_parses(words[1], words[2:])
    elif words[0] == "make":
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
    elif words[:2] == ["hf-cl", "train"] and len(words) > 2:
        check_training(words[2], words[3:])
    elif words[:2] == ["accelerate", "launch"] and len(words) > 2:
        scripts = [index for index, word in enumerate(words) if word.endswith(".py")]
        if not scripts:  # the launcher's own options alone
            return
        at = scripts[0]
        files = [word for word in words if word.startswith("recipes/")]
        assert all(Path(word).is_file() for word in files), files
        check_training(Path(words[at]).stem, words[at + 1 :])
    elif words[:2] == ["pip", "install"]:
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        assert set(re.findall(r"\[([\w-]+)\]", line)) <= extras.keys()
    elif words[0] == "python" and words[1].endswith(".py"):
        assert Path(words[1]).is_file()


def check_training(method: str, arguments: list[str]) -> None:
    if method in ("METHOD", "hold"):  # the latter is that of docs/examples/my_parts.py, which a test of its own trains
        return
    assert method in METHODS
    words = [word for word in arguments if word != "--help"]
    if "--config" in words[:-1] and words[words.index("--config") + 1].startswith("runs/"):  # which an earlier command writes
        del words[words.index("--config") : words.index("--config") + 2]
    parse_settings(METHODS[method], method, words)


def check_parses(name: str, arguments: list[str]) -> None:
    """The subcommand is there and takes these arguments; nothing is run."""
    assert name in SUBCOMMANDS, f"hf-cl has no subcommand {name}; it has {', '.join(SUBCOMMANDS)}"
    if arguments:
        SUBCOMMANDS[name].make_context(name, [STANDS_FOR.get(word, word) for word in arguments])


@per_document
def test_settings_and_options_exist(document):
    named = {word.split()[0].removeprefix("--") for word in inline_code(document) if word.startswith("--")}
    options = {option.removeprefix("--") for command in SUBCOMMANDS.values() for parameter in command.params for option in parameter.opts}
    scripts = [path.read_text() for folder in ("benchmarks", "tests/faults") for path in (ROOT / folder).rglob("*.py")]
    options |= {"help", "version", "status", *(flag.removeprefix("--") for flag in (*LISTS, *SINGLE))}  # of hf-cl itself and of sweep
    options |= {option.name for option in dataclasses.fields(TuneOptions)}
    options |= {"num_machines", "machine_rank", "main_process_ip", "config"}  # of accelerate launch, and of every method
    options |= {*re.findall(r'add_argument\("--(\w+)"', "\n".join(scripts))}
    assert named <= SETTINGS | options, named - SETTINGS - options


def test_config_names_of_the_readme_exist():
    named = re.findall(r"[Cc]onfigs? `(\w+)`|choice of `(\w+)` and `(\w+)`|configs `(\w+)` and `(\w+)`", (ROOT / "README.md").read_text())
    assert {name for group in named for name in group if name} <= set(config_names("ovor")) and named


@pytest.mark.parametrize(
    ("words", "known"),
    [
        ("Methods", METHODS),
        ("Heads", {*HEADS, "text"}),
        ("Gradient rules", RULES),
        ("Scenarios", SCENARIOS),
        ("Class orders", CLASS_ORDERS),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_nothing_is_promised_that_is_not_registered(words, known):
    """The README's list of what is in the box."""
    box = (ROOT / "README.md").read_text().split("## What is in the box")[1]
    sentence = re.search(rf"{words}([^.\n]*)", re.sub(r"\([^)]*\)", "", box))
    assert sentence is not None
    named = set(re.findall(r"`(\w+)`", sentence[1]))
    assert named and named <= set(known), named - set(known)


def test_the_readme_names_registered_adapter_types_and_their_configs():
    import hf_cl

    rows = re.findall(r"^\| `([A-Z_]+)` \| `(\w+)` \|", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert rows
    for kind, config in rows:
        assert getattr(hf_cl.adapters, config)().peft_type is PeftType[kind]


# Paths, links, names
@per_document
def test_links_lead_somewhere(document):
    for link in re.findall(r"\]\(([^)\s]+)\)", without_blocks(document)):
        if link.startswith("http"):
            continue
        path, _, anchor = link.partition("#")
        target = (document.parent / path).resolve() if path else document
        assert target.exists(), link
        if anchor:
            headings = re.findall(r"^#+ (.+)$", target.read_text(), re.MULTILINE)
            slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in slugs, link


@per_document
def test_paths_exist(document):
    tops = {path.name for path in ROOT.iterdir()} - {"site", "runs"}
    for code in inline_code(document):
        if "/" in code and code.split("/")[0] in tops and " " not in code:
            assert (ROOT / code).exists(), code


NO_NAMES = {"METHOD", "RUN", "DIR", "REPO", "ADAPTER", "null", "windowed_forgetting_w", "windowed_plasticity_w", "learning_curve_area_b"}
"""What stands for something else, or is JSON's."""
SOURCES = [
    *(path for folder in ("hf_cl", "tests", "docs", "benchmarks", "conformance") for path in (ROOT / folder).rglob("*.py")),
    *(ROOT / name for name in ("pyproject.toml", "Makefile", "mkdocs.yml")),
]


@cache
def words_of_the_code() -> frozenset[str]:
    words = {word for path in SOURCES for word in re.findall(r"\w+", path.read_text())}
    return frozenset(words | {path.stem for path in [*SOURCES, *(ROOT / "hf_cl" / "configs").rglob("*.yaml")]})


@per_document
def test_names_in_code_font_occur_in_the_code(document):
    words = words_of_the_code()
    for code in inline_code(document):
        if re.fullmatch(r"[A-Za-z_][\w.]*(\([\w, ]*\))?", code):
            missing = set(re.findall(r"\w+", code)) - words - NO_NAMES
            assert not missing, f"{code}: {missing}"


# Tables of the architecture page
def test_the_table_of_rooms_is_the_one_that_is_enforced():
    section = (ROOT / "docs/architecture.md").read_text().split("| level | room |")[1].split("\n\n")[0]
    rows = re.findall(r"^\| (\d+) \| (.+?) \|", section, re.MULTILINE)
    drawn = {int(level): set(re.findall(r"`hf_cl/(\w+?)(?:\.py)?`", rooms)) for level, rooms in rows}
    assert drawn == dict(enumerate(LEVELS))


def test_the_table_of_bases_is_the_one_that_injection_reads():
    section = (ROOT / "docs/architecture.md").read_text().split("## Which adapter goes on which base")[1].split("\n## ")[0]
    header, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line.startswith("|")]
    assert {row[0] for row in rows} == SUPPORT.keys() - {"GROWING"}  # a type that other tests register
    for kind, *cells in rows:
        for family, cell in zip(header[1:], cells, strict=True):
            assert (cell == "yes") == (SUPPORT[kind].get(family) == YES), f"{kind} on {family}"
    named = {family for families in SUPPORT.values() for family in families if " " not in family}
    assert named == set(header[1:])
