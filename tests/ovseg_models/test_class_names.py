"""Names that would silently give a wrong segmentation are refused, in words that say which."""

import pytest

from ovseg_models.class_names import checked_class_names


def test_different_names_stay_as_they_are() -> None:
    assert checked_class_names((" cat ", "dog", "Cat", "Baum, Bäume")) == [" cat ", "dog", "Cat", "Baum, Bäume"]
    assert checked_class_names([]) == []


@pytest.mark.parametrize(
    ("names", "error", "message"),
    [
        ("cat", TypeError, r"found one string 'cat', a list is expected; write \['cat'\]"),
        (["cat", 3], TypeError, "found 3 of type int, strings are expected"),
        (["cat", b"dog"], TypeError, "found b'dog' of type bytes, strings are expected"),
        (["cat", None], TypeError, "found None of type NoneType, strings are expected"),
        (["cat", "dog", " cat", "cat"], ValueError, "found 'cat' 3 times, each name once is expected"),
        (["cat", "caf\udce9"], ValueError, r"found 'caf\\udce9', which is not valid UTF-8"),
    ],
)
@pytest.mark.usefixtures("without_shape_checks")
def test_what_is_no_list_of_different_names_is_refused(names: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^class names: {message}"):
        checked_class_names(names)  # type: ignore[arg-type]
