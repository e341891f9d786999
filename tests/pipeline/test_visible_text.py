"""Names of others never steer a terminal or a page."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.visible_text import visible, visible_line


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred", "\\x1b[31mred"),
        ("a\rb", "a\\x0db"),
        ("\x9b2J", "\\x9b2J"),
        ("abc\u202etxt", "abc\\u202etxt"),
        ("a\u2028b", "a\\u2028b"),
        ("\x00\x7f\ud800\U000e0041", "\\x00\\x7f\\ud800\\U000e0041"),
        ("Größe 犬 \U0001f436 a\u200db\tc\n", "Größe 犬 \U0001f436 a\u200db\tc\n"),
    ],
)
def test_control_characters_are_written_out(text, shown):
    assert visible(text) == shown


@given(st.text(st.characters(codec=None)))
def test_nothing_that_steers_is_left(text):
    shown = visible_line(text)
    assert not [each for each in shown if unicodedata.category(each) in {"Cc", "Cs", "Zl", "Zp"}]
    assert shown.encode().decode() == shown
    assert visible(visible(text)) == visible(text)
