"""Settings from YAML and flags, whatever they hold: settings of the right types, or one sentence that names the key or the file."""

from __future__ import annotations

from dataclasses import asdict, fields

import pytest
import yaml
from hostile_cases import NAMES, cases, check_message, damaged, names, values
from hypothesis import given
from hypothesis import strategies as st

from hf_cl.methods import METHODS
from hf_cl.run import CONFIGS, parse_settings

PACKAGED = [path for path in sorted(CONFIGS.glob("*/*.yaml")) if path.parent.name in METHODS]
EVIL = [
    "!!python/object/apply:os.system [touch canary]",
    "!!python/name:os.system",
    "a: !!bool x",
    "a: !!timestamp x",
    "a: 2020-99-99",
    "a: !!int ''",
    "a: !!float x",
    "a: !!binary $",
    "? [a]: b",
    "a: &a [*a]",
    "a: " + "[" * 400,
    "a: 1\n---\nb: 2",
    "\x00",
    "\tx: 1",
    "epochs: &a [1, 1]\nhead: {x: *a}",
    "- a",
    "just words",
    "a: 0x" + "f" * 9000,
    "epochs: 1\nepochs: 2",
]
LAUGHS = "a0: &a0 [x, x]\n" + "\n".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)) + "\nepochs: *a11\n"


def parse(method: str, arguments: list[str]) -> None:
    """Whatever the arguments are: settings that can be written down again, or a short ValueError."""
    settings_class = METHODS[method]
    try:
        settings = parse_settings(settings_class, method, arguments)
    except ValueError as error:
        check_message(error)
    else:
        assert {f.name for f in fields(settings_class)} == asdict(settings).keys()
        assert yaml.safe_load(yaml.safe_dump(asdict(settings))) is not None
        assert settings.batch_size >= 1


@cases
@given(data=st.data())
def test_any_value_of_any_setting_in_a_file(tmp_path_factory, data):
    method = data.draw(st.sampled_from(sorted(METHODS)))
    keys = [f.name for f in fields(METHODS[method])]
    content = data.draw(st.dictionaries(st.sampled_from(keys) | names, values, min_size=1, max_size=3))
    path = tmp_path_factory.getbasetemp() / "mine.yaml"
    path.write_text(yaml.safe_dump(content))
    parse(method, ["--config", str(path)])


@cases
@given(data=st.data())
def test_any_damage_of_a_packaged_config(tmp_path_factory, data):
    packaged = data.draw(st.sampled_from(PACKAGED))
    path = tmp_path_factory.getbasetemp() / "damaged.yaml"
    path.write_bytes(data.draw(damaged(packaged.read_bytes())))
    parse(packaged.parent.name, ["--config", str(path)])


@cases
@given(data=st.data())
def test_any_flags(data):
    method = data.draw(st.sampled_from(sorted(METHODS)))
    keys = [f"--{f.name}" for f in fields(METHODS[method])]
    words = st.one_of(
        st.sampled_from(keys), names, st.sampled_from(["--", "--=", "=", "--config", "-1", "{", "&a", "!!bool x", "~", "1e400"])
    )
    parse(method, [word for word in data.draw(st.lists(words, max_size=6)) if "\0" not in word])


@pytest.mark.parametrize("text", [*EVIL, LAUGHS], ids=range(len(EVIL) + 1))
def test_yaml_that_is_more_than_keys_and_values(tmp_path, monkeypatch, text):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "evil.yaml"
    path.write_text(text)
    with pytest.raises(ValueError) as caught:
        parse_settings(METHODS["ovor"], "ovor", ["--config", str(path)])
    check_message(caught.value, "evil.yaml")
    assert [each.name for each in tmp_path.iterdir()] == ["evil.yaml"]


@pytest.mark.parametrize("data", [b"\xff\xfe\x00", b"\x80abc: 1", bytes(range(256))])
def test_a_config_that_is_no_text(tmp_path, data):
    path = tmp_path / "binary.yaml"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"binary.yaml is no text file in UTF-8"):
        parse_settings(METHODS["ovor"], "ovor", ["--config", str(path)])


@pytest.mark.parametrize(
    "name", [name for name in NAMES if "\0" not in name and name.strip()], ids=range(len([n for n in NAMES if "\0" not in n and n.strip()]))
)
def test_any_name_of_a_config(name):
    with pytest.raises(ValueError) as caught:
        parse_settings(METHODS["ovor"], "ovor", [f"--config={name}"])
    check_message(caught.value)


@pytest.mark.parametrize("value", [".nan", ".inf", "-.inf"])
def test_numbers_of_settings_are_finite(value):
    with pytest.raises(ValueError, match=r"--learning_rate: Input should be a finite number"):
        parse_settings(METHODS["ovor"], "ovor", ["--learning_rate", value])
