"""What mkdocs does beyond its own: the site also has the pages of the repository that docs/ links to.

The same relative links work in the repository and on the site. A link to a file that the site does not have (code, a recipe) becomes
plain text there. `<!-- code of examples/some.py -->` becomes that file.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
CODE = re.compile(r"<!-- code of (examples/\w+\.py) -->")
LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!https?:|mailto:|#)([^)#\s]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: Any) -> Files:
    """Add what lies outside of docs/."""
    for path in (ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "model_cards").glob("*.md")), *NOTEBOOKS):
        files.append(File.generated(config, path.relative_to(ROOT).as_posix(), content=path.read_text()))
    return files


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
