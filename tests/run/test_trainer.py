"""What is made of a trained run."""

from __future__ import annotations

from five_runs import build

from hf_cl.results.results import Results


def test_results_are_written_once_and_again_only_with_what_is_new(tmp_path, monkeypatch):
    saved, save = [], Results.save
    monkeypatch.setattr(Results, "save", lambda self, path: (saved.append(dict(self.comparisons)), save(self, path))[1])
    trainer = build("sara", tmp_path, sessions=1)
    trainer.fit()
    assert saved == [{}]
    written = (tmp_path / "results.json").read_bytes()
    trainer.finish()
    assert saved == [{}] and (tmp_path / "results.json").read_bytes() == written and (tmp_path / "report.html").exists()
    trainer.finish({"a mark": 0.25})
    assert saved == [{}, {"a mark": 0.25}] and Results.load(tmp_path / "results.json").comparisons == {"a mark": 0.25}
