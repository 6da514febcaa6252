"""What mkdocs does beyond its own: the site also has the pages of the repository that docs/ links to.

The same relative links work in the repository and on the site. A link to a file that the site does not have (code, a recipe) becomes
plain text there. `<!-- code of examples/some.py -->` becomes that file.
"""

from __future__ import annotations

import json
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
CODE = re.compile(r"<!-- code of (examples/\w+\.py) -->")
LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!https?:|mailto:|#)([^)#\s]+)(#[^)\s]*)?\)")


def no_references(config: Any) -> Any:
    """`R[t][j]` is an entry of a matrix on these pages, and no reference of autorefs: only what mkdocstrings links itself is one."""
    config.markdown_extensions = [one for one in config.markdown_extensions if type(one).__name__ != "AutorefsExtension"]
    return config


on_config = no_references  # of docstrings


def on_files(files: Files, config: Any) -> Files:
    """Add what lies outside of docs/."""
    no_references(config)  # of pages: the plugins have set up theirs by now
    for path in (ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "model_cards").glob("*.md")), *NOTEBOOKS):
        files.append(File.generated(config, path.relative_to(ROOT).as_posix(), content=path.read_text()))
    for path in NOTEBOOKS:
        files.append(File.generated(config, path.relative_to(ROOT).with_suffix(".md").as_posix(), content=as_page(path)))
    return files


def as_page(notebook: Path) -> str:
    """A notebook without its outputs as a page, which links to the file."""
    cells = json.loads(notebook.read_text())["cells"]
    pieces = [text if cell["cell_type"] == "markdown" else f"```python\n{text}\n```" for cell in cells if (text := "".join(cell["source"]))]
    title, *rest = pieces
    return "\n\n".join([title, f"This page is the notebook [{notebook.name}]({notebook.name}), to run step by step.", *rest])


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Turn links of the repository into links of the site, show the examples, and forget which blocks the tests run."""
    source = page.file.src_uri
    folder = posixpath.dirname(source if page.file.generated_by else f"docs/{source}")

    def link(match: re.Match[str]) -> str:
        image, text, target, anchor = match.groups()
        path = posixpath.normpath(posixpath.join(folder, target))
        uri = path.removeprefix("docs/")
        if files.get_file_from_path(uri) is not None:
            return f"{image}[{text}]({posixpath.relpath(uri, posixpath.dirname(source))}{anchor or ''})"
        return text if (ROOT / path).exists() else match[0]  # what is nowhere is for mkdocs to complain of

    markdown = LINK.sub(link, markdown).replace("```python test", "```python")
    return CODE.sub(lambda match: f"```python\n{(ROOT / 'docs' / match[1]).read_text()}```", markdown)
