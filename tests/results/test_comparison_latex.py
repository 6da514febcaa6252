from compared_runs import two_methods, write_run

from hf_cl.results.comparison import compare
from hf_cl.results.comparison_latex import comparison_latex, escaped
from hf_cl.results.saved_run import read_run


def table(folders, **options):
    return comparison_latex(compare([read_run(folder) for folder in folders], **options)).splitlines()


def test_a_row_per_group_and_a_column_per_number(tmp_path):
    comment, begin, top, heading, middle, first, second, bottom, end = table(
        two_methods(tmp_path), metrics=["final_accuracy", "forgetting"]
    )
    assert comment.startswith("% percent") and "over 1-3 runs" in comment and r"\usepackage{booktabs}" in comment
    assert (begin, end) == (r"\begin{tabular}{lrr}", r"\end{tabular}")
    assert (top, middle, bottom) == (r"\toprule", r"\midrule", r"\bottomrule")
    assert heading == r"method & final\_accuracy & forgetting \\"
    assert first.startswith(r"ovor & $61.00 \pm 2.00$ & $") and second.startswith("lora & $55.00$ & $")


def test_labels_break_nothing_and_a_missing_number_is_a_dash(tmp_path):
    runs = [
        write_run(tmp_path / "a", method="a_b", probes={"drift": {"norm": 1.0}}),
        write_run(tmp_path / "b", method=r"50% \input{x} & $^~#"),
    ]
    *_, first, second, _, _ = table(runs, metrics=["drift.norm"])
    assert first == r"a\_b & $1$ \\"
    assert second == r"50\% \textbackslash{}input\{x\} \& \$\textasciicircum{}\textasciitilde{}\# & -- \\"
    assert escaped("plain") == "plain"
