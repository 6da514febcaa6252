"""`keep_adapters`: which sessions' adapters stay, and that a resumed run does not miss the others."""

import pytest
from loop_case import build, digest

from hf_cl import TrainingSettings
from hf_cl.settings import keeps_adapter


@pytest.mark.parametrize(("policy", "kept"), [("all", {0, 1, 2}), ("last", {2}), ("every:2", {0, 2})])
def test_what_stays(tmp_path, policy, kept):
    build(tmp_path / "run", sessions=2, head="prototype", keep_adapters=policy).fit()
    build(tmp_path / "run", sessions=3, head="prototype", keep_adapters=policy, resume="auto").fit()  # it may have been removed by then
    assert {path.name for path in (tmp_path / "run/adapters").iterdir()} == {f"session-{k}" for k in kept}
    build(tmp_path / "whole", sessions=3, head="prototype", keep_adapters=policy).fit()
    assert digest(tmp_path / "run") == digest(tmp_path / "whole")


def test_every_tenth():
    assert [k for k in range(25) if keeps_adapter("every:10", k)] == [0, 10, 20]
    assert [k for k in range(3) if keeps_adapter("every:5", k)] == [0]  # and the last one, whichever it is, until the next is there


@pytest.mark.parametrize("policy", ["some", "every:0", "every:", "every:-1", "last "])
def test_other_words_are_refused(policy):
    with pytest.raises(ValueError, match="keep_adapters must be all, last or every:N"):
        TrainingSettings(keep_adapters=policy)
