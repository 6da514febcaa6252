"""`--import` and packages that announce parts."""

from __future__ import annotations

import sys

import pytest
import yaml

from hf_cl import own_parts
from hf_cl.own_parts import import_parts, naming_what_is_missing, recorded


@pytest.fixture(autouse=True)
def as_before(monkeypatch, tmp_path):
    """Modules and paths of a test go with it."""
    before = set(sys.modules)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(own_parts, "_given", [])
    monkeypatch.chdir(tmp_path)
    yield
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_a_file_is_imported_once_and_finds_its_neighbours(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "names_neighbour.py").write_text("value = 3")
    (tmp_path / "folder" / "names_mine.py").write_text("import names_neighbour\ncount = names_neighbour.value")
    import_parts(["folder/names_mine.py"])
    sys.modules["names_mine"].count = 4
    import_parts([str(tmp_path / "folder" / "names_mine.py")])
    assert sys.modules["names_mine"].count == 4


def test_a_module_of_the_working_folder_is_imported(tmp_path):
    (tmp_path / "names_package").mkdir()
    (tmp_path / "names_package" / "parts.py").write_text("here = True")
    import_parts(["names_package.parts"])
    assert sys.modules["names_package.parts"].here


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere.py", "there is no such file"),
        ("names_nowhere.parts", "no module 'names_nowhere'"),
        ("json.py", "a module 'json' is imported already, from elsewhere"),
    ],
)
def test_what_cannot_be_imported_is_a_sentence(tmp_path, name, message):
    (tmp_path / "json.py").write_text("")
    with pytest.raises(ValueError, match=message):
        import_parts([name])


def test_what_is_wrong_inside_a_file_is_not_hidden(tmp_path):
    (tmp_path / "names_broken.py").write_text("import names_not_there")
    for name in ("names_broken.py", "names_broken"):
        with pytest.raises(ModuleNotFoundError, match="names_not_there"):
            import_parts([name])
    assert "names_broken" not in sys.modules


def installed(folder, name, module, code):
    """What pip leaves of a package with an entry point: a module and its metadata."""
    (folder / f"{module}.py").write_text(code)
    metadata = folder / f"{name}-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[hf_cl.parts]\n{name} = {module}\n")


def test_an_installed_package_is_known_without_import(tmp_path, monkeypatch, caplog):
    from hf_cl.losses import LOSSES, MaskedCrossEntropy

    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.setitem(LOSSES, "names_installed", MaskedCrossEntropy)  # goes with the test
    del LOSSES["names_installed"]
    code = "from hf_cl.losses import LOSSES, MaskedCrossEntropy\nLOSSES['names_installed'] = MaskedCrossEntropy"
    installed(site, "good", "names_good", code)
    installed(site, "stale", "names_stale", "import names_not_there")
    sys.path.append(str(site))
    import_parts()
    assert LOSSES["names_installed"] is MaskedCrossEntropy
    assert "stale = names_stale announces parts and cannot be imported" in caplog.text


def test_a_missing_import_is_named(tmp_path):
    run, adapter = tmp_path / "run", tmp_path / "run" / "adapters" / "session-1"
    adapter.mkdir(parents=True)
    (tmp_path / "names_given.py").write_text("")
    (run / "config.yaml").write_text(yaml.safe_dump({"imports": ["names_given.py", "names_missing.py"]}))
    assert recorded(run) == recorded(adapter) == ["names_given.py", "names_missing.py"]
    assert recorded(tmp_path / "elsewhere") == []
    import_parts(["names_given.py"])
    with pytest.raises(ValueError, match=r"--import names_missing\.py: give that here too") as said, naming_what_is_missing(adapter):
        raise ValueError("Unknown head.")
    assert str(said.value).startswith("Unknown head.\nIt was trained with --import names_missing.py")


@pytest.mark.parametrize("text", ["imports: {a: 1}", "[1]", "imports: [3", "seed: 1"])
def test_a_record_that_is_none_says_nothing(tmp_path, text):
    (tmp_path / "config.yaml").write_text(text)
    assert recorded(tmp_path) == []
