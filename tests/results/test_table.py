import io
from dataclasses import replace

import pytest
from example_results import base_to_novel_results, example_results, few_shot_results, nasty_results, sessions_of
from rich.console import Console

from hf_cl.results.table import FittedTable, accuracy_of_tests, headlines, session_news, session_table, summary_table


def printed(table, width=80):
    file = io.StringIO()
    Console(file=file, width=width, color_system=None).print(table)
    return file.getvalue()


def long_run(sessions):
    matrix = [[max(0.0, round(0.9 - 0.01 * (t - j), 2)) for j in range(t + 1)] for t in range(sessions)]
    names = [[f"class {t}"] for t in range(sessions)]
    return example_results(
        sessions=sessions_of(names),
        accuracy_matrix=matrix,
        accuracy_matrix_task_aware=matrix,
        accuracy_matrix_within=matrix,
        class_accuracy_matrix=matrix,
        test_counts=[20] * sessions,
        times=None,
    )


def test_table_after_every_session():
    lines = printed(session_table(example_results())).splitlines()
    cells = [line.split() for line in lines]
    assert cells[2] == ["after", "0", "1", "2", "all", "seen", "forgetting"]
    assert cells[4] == ["0", "90.00", "90.00", "–"]
    assert cells[5] == ["1", "80.00", "70.00", "77.50", "10.00"]
    assert cells[6] == ["2", "60.00", "75.00", "50.00", "61.00", "12.50"]


@pytest.mark.parametrize("sessions", [6, 7, 20, 100])
def test_a_long_run_fits_a_terminal(sessions):
    lines = printed(session_table(long_run(sessions))).splitlines()
    last = lines[3 + sessions].split()
    assert last[0] == str(sessions - 1)
    assert last[-2:] == headline_cells(sessions)
    assert max(map(len, lines)) <= 80
    assert ("…" in last) == (sessions > 6)
    assert last[1] == f"{max(0, 91 - sessions):.2f}"  # the base session is always there


@pytest.mark.parametrize("sessions", [1, 2, 6, 40])
@pytest.mark.parametrize("width", [36, 41, 60, 80, 200])
def test_no_width_loses_a_column_or_a_digit(sessions, width):
    lines = printed(FittedTable(long_run(sessions)), width).splitlines()
    assert max(map(len, lines)) <= width
    assert lines[2].split()[-3:] == ["all", "seen", "forgetting"] and lines[2].split()[0] == "after"
    last = lines[3 + sessions].split()
    headline = headline_cells(sessions) if sessions > 1 else ["90.00", "–"]
    assert last[-2:] == headline and last[0] == str(sessions - 1)
    tests = [cell for cell in last[1:-2] if cell != "…"]
    assert all(len(cell.partition(".")[2]) == 2 for cell in tests)
    shown = [int(cell) for cell in lines[2].split()[1:-3] if cell.isdigit()]
    assert len(shown) == len(tests) and ("…" in last) == (len(shown) < sessions)
    assert not shown or (shown[0] == 0 and shown[-1] == sessions - 1)
    if width == 200:
        assert len(shown) >= min(sessions, 18), "a wide terminal shows more"


def test_a_changed_number_of_test_pictures_does_not_push_columns_out():
    counts = [[15] * (t + 1) for t in range(5)]
    counts[-1] = [12] * 5
    grown = replace(long_run(5), test_counts=[12] * 5, test_counts_then=counts)
    for width in (40, 60, 80):
        lines = printed(FittedTable(grown), width).splitlines()
        assert ("forgetting" in lines[2] and max(map(len, lines)) <= width and "12 of 15" in lines[2]) or width == 40


def headline_cells(sessions):
    metrics = long_run(sessions).metrics
    return [f"{100 * metrics['final_accuracy']:.2f}", f"{100 * metrics['forgetting']:.2f}"]


def test_tests_with_candidates_of_their_own():
    text = printed(session_table(base_to_novel_results()))
    assert "base" in text
    assert "80.00" in text
    assert headlines(base_to_novel_results()) == {
        "base_accuracy_within": 0.8,
        "novel_accuracy_within": 0.6,
        "harmonic_accuracy_within": pytest.approx(0.96 / 1.4),
    }


def test_summary_gives_both_accuracies_by_full_name():
    rows = dict(line.split() for line in printed(summary_table(example_results(comparisons={}))).splitlines() if line.strip())
    assert rows == {
        "final_accuracy": "61.00",
        "final_accuracy_unweighted": "61.67",
        "average_incremental_accuracy": "76.17",
        "average_incremental_accuracy_unweighted": "75.56",
        "forgetting": "12.50",
        "backward_transfer": "-12.50",
    }


def test_unweighted_is_left_out_where_it_is_the_same():
    assert not [name for name in headlines(example_results(test_counts=[10, 10, 10])) if name.endswith("unweighted")]


def test_few_shot_runs_show_drop_and_harmonic_mean():
    assert {"performance_drop", "average_harmonic_accuracy"} <= set(headlines(few_shot_results()))
    assert "performance_drop" not in headlines(example_results())


def test_cross_dataset_runs_show_the_mean():
    assert headlines(base_to_novel_results(test_accuracy={"pets": 0.5, "cars": 0.7})) == {"average_test_accuracy": pytest.approx(0.6)}


def test_names_are_no_markup():
    assert "for comparison: [red]x[/red]" in printed(summary_table(example_results(comparisons={"[red]x[/red]": 0.5})))
    assert "for comparison" in printed(summary_table(nasty_results()))


def test_after_a_session_there_is_a_line():
    results = example_results()
    text = printed(session_news(results.metrics))
    assert text.count("\n") == 1 and text.startswith("session 2: all seen classes ")
    assert f"forgetting {100 * results.metrics['forgetting']:.2f} %" in text
    assert "novel" in printed(accuracy_of_tests(base_to_novel_results()))
    assert "forgetting" not in printed(session_news(long_run(1).metrics))
