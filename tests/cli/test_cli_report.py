import json

from compared_runs import write_run
from example_results import shown_results


def test_reports_are_written_anew(call, tmp_path):
    one, other = write_run(tmp_path / "one"), write_run(tmp_path / "other", method="lora")
    result = call("report", one, other)
    assert result.exit_code == 0, result.output
    assert result.stdout.split() == [str(one / "report.html"), str(other / "report.html")]
    assert "<title>LORA on animals</title>" in (other / "report.html").read_text()


def test_json_lists_the_pages(call, tmp_path):
    folder = write_run(tmp_path / "one")
    shown_results().save(folder / "results.json")
    result = call("report", folder, "--json")
    assert json.loads(result.stdout) == [str(folder / "report.html")]
    assert "What is taken for what" in (folder / "report.html").read_text()


def test_a_folder_that_is_no_run(call, tmp_path):
    result = call("report", tmp_path)
    assert result.exit_code == 2 and "has no results.json" in result.stderr
