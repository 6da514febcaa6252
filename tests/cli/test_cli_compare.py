import json

import pytest
from compared_runs import two_methods, write_run
from example_results import example_results


def test_a_table_and_a_page(call, tmp_path):
    result = call("compare", *two_methods(tmp_path), "--output", tmp_path / "page.html")
    assert result.exit_code == 0, result.output
    row = next(line for line in result.stdout.splitlines() if "final_accuracy " in line)
    assert "61.00 ± 2.00" in row and "55.00" in row
    assert "ovor" in result.stdout and "lora" in result.stdout and "n - 1" in result.stdout
    assert (tmp_path / "page.html").read_text().startswith("<!DOCTYPE html>")


def test_json_and_nothing_else(call, tmp_path):
    runs = two_methods(tmp_path)
    result = call("compare", *runs, "--output", tmp_path / "page.html", "--json")
    values = json.loads(result.stdout)
    assert values["ddof"] == 1 and values["page"] == str(tmp_path / "page.html") and values["across"] == {}
    first, second = values["groups"]
    assert first["runs"] == [str(run) for run in runs[:3]] and first["seeds"] == [0, 1, 2] and first["method"] == "ovor"
    assert first["metrics"]["final_accuracy"] == {
        "mean": pytest.approx(0.61),
        "std": pytest.approx(0.02),
        "values": pytest.approx([0.59, 0.61, 0.63]),
    }
    assert second["metrics"]["final_accuracy"]["std"] is None
    assert values["protocol"]["dataset"] == "animals"
    pair = values["paired"][0]
    assert (pair["first"], pair["second"], pair["metric"]) == ("ovor", "lora", "final_accuracy")
    assert pair["differences"] == pytest.approx([0.04]) and pair["interval"] is None and pair["sign_test"] == 1.0


def test_different_protocols_need_consent_by_key(call, tmp_path):
    protocol = example_results(protocol=type(example_results().protocol)(name="class_incremental", dataset="plants", class_order_seed=9))
    runs = [write_run(tmp_path / "a"), write_run(tmp_path / "b", seed=1, protocol=protocol.protocol)]
    refused = call("compare", *runs, "--output", tmp_path / "page.html")
    assert refused.exit_code == 2 and not (tmp_path / "page.html").exists()
    assert "dataset: animals / plants" in refused.stderr
    consent = refused.stderr.split("To compare them all the same: ")[1].split()
    assert consent[:2] == ["--across", "dataset"]
    allowed = call("compare", *runs, *consent, "--output", tmp_path / "page.html")
    assert allowed.exit_code == 0, allowed.output
    assert "The protocols differ in dataset" in " ".join(allowed.stdout.split())


def test_a_mistake_is_a_sentence(call, tmp_path):
    result = call("compare", tmp_path / "nothing")
    assert result.exit_code == 2 and "There is no run folder" in result.stderr and "Traceback" not in result.stderr
    result = call("compare", write_run(tmp_path / "a"), "--output", tmp_path / "no" / "page.html")
    assert result.exit_code == 2 and "No such file or directory" in result.stderr


def test_a_table_for_a_paper(call, tmp_path):
    result = call("compare", *two_methods(tmp_path), "--output", tmp_path / "page.html", "--metric", "final_accuracy", "--latex")
    assert result.exit_code == 0, result.output
    assert r"ovor & $61.00 \pm 2.00$ \\" in result.stdout and "forgetting" not in result.stdout


def test_an_unknown_metric_is_a_sentence(call, tmp_path):
    result = call("compare", write_run(tmp_path / "a"), "--output", tmp_path / "page.html", "--metric", "final")
    assert result.exit_code == 2 and "None of the runs has a single number 'final'" in result.stderr
    assert not (tmp_path / "page.html").exists()


def test_a_ranking_over_a_key(call, tmp_path):
    runs = [
        write_run(tmp_path / f"{method}-{epochs}", method=method, settings={"epochs": epochs}, final=0.3 + slope * epochs)
        for method, slope in (("ovor", 0.01), ("lora", 0.05))
        for epochs in (1, 2, 4)
    ]
    page = tmp_path / "page.html"
    result = call("compare", *runs, "--scale", "epochs", "--output", page)
    assert result.exit_code == 0, result.output
    assert "ovor and lora: single runs have no intervals, so nothing is claimed." in result.stdout
    assert "The ranking at epochs 1 predicts the ranking at 4 in 1 of 1 pairs; in none" in result.stdout
    assert "A x^-a + E" in page.read_text()
    values = json.loads(call("compare", *runs, "--scale", "epochs", "--output", page, "--json").stdout)
    assert values["key"] == "epochs" and [curve["label"] for curve in values["curves"]] == ["ovor", "lora"]
    refused = call("compare", *runs, "--scale", "epoch", "--output", page)
    assert refused.exit_code == 2 and "Did you mean 'epochs'?" in refused.stderr
    assert "has no --latex" in call("compare", *runs, "--scale", "epochs", "--latex").stderr
