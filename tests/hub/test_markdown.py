import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from hf_cl.hub.markdown import escape, fence
from hf_cl.results.display import display_name

GFM = MarkdownIt("commonmark").enable(["table", "strikethrough"])


def paragraph(markdown):
    return [token.type for token in GFM.parse(str(markdown))], GFM.render(str(markdown))


@pytest.mark.parametrize("text", ["snake_case_name", "batch_size", "0.005", "-12.50", "a, b (c): d/e!", "2.14.1", "it's", "crème brûlée"])
def test_plain_text_stays_readable(text):
    assert escape(text) == text


@settings(deadline=None)
@given(st.text(alphabet=string.punctuation + "a1 \n\t", min_size=1, max_size=30) | st.text(max_size=30))
def test_any_text_is_one_paragraph_that_reads_as_the_text(text):
    line = display_name(text)
    tokens, _ = paragraph(escape(text))
    assert tokens == ["paragraph_open", "inline", "paragraph_close"]
    inline = GFM.parse(str(escape(text)))[1].children
    assert {token.type for token in inline} <= {"text", "text_special"}
    assert "".join(token.content for token in inline).strip("\u2068\u2069") == line


@settings(deadline=None)
@given(st.text(alphabet="`a\n ", max_size=40))
def test_any_text_stays_inside_its_fence(text):
    tokens = GFM.parse(str(fence(text)) + "\n\nafter")
    assert [token.type for token in tokens] == ["fence", "paragraph_open", "inline", "paragraph_close"]


def test_links_are_not_made_of_names():
    assert "://" not in escape("http://a.example")
    assert "www." not in escape("www.a.example")
    assert "@" not in escape("a@b.example")
