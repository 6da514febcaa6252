"""A comparison as a table for a paper: a row per group, a column per number."""

from __future__ import annotations

from hf_cl.results.comparison import Comparison
from hf_cl.results.comparison_page import number_text
from hf_cl.results.display import MISSING, display_name

_ESCAPED = {character: f"\\{character}" for character in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    MISSING: "--",
}


def comparison_latex(comparison: Comparison) -> str:
    """A `tabular` with the rules of booktabs; its first line, a comment, says what the numbers are."""
    runs = sorted({len(group.runs) for group in comparison.groups})
    counts = "-".join(map(str, (runs[0], runs[-1]) if len(runs) > 1 else runs))
    lines = [
        f"% percent, numbers of probes as they are; mean and standard deviation (n - 1) over {counts} runs; needs \\usepackage{{booktabs}}",
        rf"\begin{{tabular}}{{l{'r' * len(comparison.metrics)}}}",
        r"\toprule",
        " & ".join(["method", *(escaped(display_name(name)) for name in comparison.metrics)]) + r" \\",
        r"\midrule",
    ]
    for group in comparison.groups:
        numbers = [_number(number_text(group, name)) for name in comparison.metrics]
        lines.append(" & ".join([escaped(display_name(group.label)), *numbers]) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"])


def escaped(text: str) -> str:
    """What LaTeX would read as a command becomes a character."""
    return "".join(_ESCAPED.get(character, character) for character in text)


def _number(text: str) -> str:
    return "--" if text == MISSING else "$" + text.replace("±", r"\pm") + "$"
