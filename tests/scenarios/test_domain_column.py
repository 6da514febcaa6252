"""One table of several domains: sessions by its column, the domain of each image, what is refused."""

from __future__ import annotations

import datasets
import numpy as np
import pytest
from PIL import Image

from hf_cl.contracts import domains_of
from hf_cl.memory.joined import joined
from hf_cl.scenarios import DataError, class_incremental, domain_incremental, open_images

ROWS = [("photo", "cat", 6), ("sketch", "cat", 5), ("photo", "dog", 6), ("sketch", "owl", 5), ("oil", "dog", 5)]


def table(rows, **more):
    values = [(style, animal) for style, animal, count in rows for _ in range(count)]
    picture = [Image.new("RGB", (8, 8), (10 * i % 256, 40, 7 * i % 256)) for i in range(len(values))]
    columns = {"image": picture, "label": [animal for _, animal in values], "style": [style for style, _ in values], **more}
    return datasets.Dataset.from_dict(columns).cast_column("image", datasets.Image())


@pytest.fixture(scope="module")
def source():
    test = [(style, animal, 2) for style, animal, _ in ROWS] + [("oil", "cat", 1)]  # a class that its domain does not train on
    return open_images({"train": table(ROWS), "test": table(test)}, name="zoo", domain_column="style")


def test_sessions_are_the_domains_in_order_of_first_appearance(source):
    assert source.domain_names == ("photo", "sketch", "oil")
    stream = domain_incremental(source)
    assert stream.protocol["details"] == {"domains": ["photo", "sketch", "oil"]} and stream.protocol["dataset"] == "zoo"
    assert stream.class_names == ("cat", "dog", "owl") and stream.protocol["num_base_classes"] == 2
    assert [session.new_class_names for session in stream] == [("cat", "dog"), ("owl",), ()]
    counts = [np.bincount(session.train.labels, minlength=3).tolist() for session in stream]
    assert counts == [[6, 6, 0], [5, 0, 5], [0, 5, 0]]
    assert [np.bincount(test.data.labels, minlength=3).tolist() for test in stream.sessions[2].tests] == [[2, 2, 0], [2, 0, 2], [0, 2, 0]]


def test_an_image_knows_its_domain_by_session(source):
    stream = domain_incremental(source, domains=["oil", "photo"])
    for number, session in enumerate(stream):
        assert set(domains_of(session.train)) == set(domains_of(session.tests[-1].data)) == {number}
    both = joined(stream.sessions[1].train, stream.sessions[0].train)
    assert domains_of(both).tolist() == [1] * 12 + [0] * 5
    assert domains_of(joined(stream.sessions[1].train, Unknown(2))) is None


class Unknown:
    """A data set of one's own, which knows no domains."""

    def __init__(self, count):
        self.labels, self.indices = [0] * count, list(range(9000, 9000 + count))

    def __len__(self):
        return len(self.labels)


def test_without_a_split_each_domain_is_parted(make_source):
    source = open_images(table(ROWS), domain_column="style")
    for session in domain_incremental(source, class_order_seed=3):
        counts = np.bincount(session.train.labels)
        assert all(count in (0, 4, 5) for count in counts)
        assert len(session.tests[-1].data) == len(session.train) // 4


def test_metadata_beside_photos_says_it(tmp_path):
    lines = ["file_name,label,style"]
    for number, (style, animal) in enumerate([(s, a) for s in ("photo", "oil") for a in ("cat", "dog") for _ in range(4)]):
        Image.new("RGB", (8, 8), (15 * number, 99, 3)).save(tmp_path / f"{number}.png")
        lines.append(f"{number}.png,{animal},{style}")
    (tmp_path / "metadata.csv").write_text("\n".join(lines))
    stream = domain_incremental(open_images(tmp_path, domain_column="style"))
    assert stream.protocol["details"] == {"domains": ["photo", "oil"]}
    assert [len(session.train) + len(session.tests[-1].data) for session in stream] == [8, 8]


def test_other_protocols_carry_the_domain_too(source):
    stream = class_incremental(source, 1, 1, class_order="natural")
    assert [sorted(set(domains_of(session.train).tolist())) for session in stream] == [[0, 1], [0, 2], [1]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"domains": ["photo", "skech"]}, r"no domain 'skech'; they have 'photo', 'sketch', 'oil'\. Did you mean 'sketch'\?"),
        ({"domains": ["photo"]}, "at least two domains"),
        ({"targets": ["itself"]}, "from targets or from a domain_column"),
    ],
)
def test_refused(source, arguments, message):
    with pytest.raises(ValueError, match=message):
        domain_incremental(source, **arguments)


def test_refused_data(make_source, tmp_path):
    with pytest.raises(DataError, match=r"no column 'styl' \(domain_column\).*Did you mean 'style'"):
        open_images(table(ROWS), domain_column="styl")
    with pytest.raises(DataError, match=r"2 rows of split 'data' have no domain in column 'medium', the first is row 1"):
        open_images(table(ROWS[:1], medium=["a", None, "a", " ", "b", "b"]), domain_column="medium")
    with pytest.raises(DataError, match="'digits' is no table with columns"):
        open_images("digits", domain_column="style")
    with pytest.raises(ValueError, match="name it: --domain_column style"):
        domain_incremental(make_source([3, 3], [1, 1]), domains=["a"])
