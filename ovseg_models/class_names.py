"""What is asked of the class names that a user gives; imports nothing heavy."""

import re
from collections import Counter
from collections.abc import Sequence

CLASSES_IN_8_BIT, CLASSES_MAX = 255, 65_535
"""Most classes that a label map can number in 8 and in 16 bits; the value above them says that nothing was found."""
_SEPARATORS = re.compile(r"[,;\n]")


def split_class_names(typed: str) -> list[str]:
    """Split what was typed at commas, semicolons and new lines into names; blanks within a name become one."""
    return [name for part in _SEPARATORS.split(typed) if (name := " ".join(part.split()))]


def checked_class_names(class_names: Sequence[str]) -> list[str]:
    """Return class names as a list, none of them twice; blank ones are left to whoever embeds them.

    Names that differ only in the blanks around them are one name, and would share one class's probability.

    Raises:
        TypeError: If it is one string, which would be taken for a list of letters, or if a name is no string.
        ValueError: If a name is there twice, or holds a lone surrogate, as a name does that was read from bytes which
            are not UTF-8.
    """
    if isinstance(class_names, str):
        raise TypeError(f"class names: found one string {class_names!r}, a list is expected; write [{class_names!r}]")
    names = list(class_names)
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"class names: found {name!r} of type {type(name).__name__}, strings are expected; name it")
        if any("\ud800" <= letter <= "\udfff" for letter in name):
            raise ValueError(f"class names: found {name!r}, which is not valid UTF-8; write it in UTF-8")
    repeated = [(name, times) for name, times in Counter(name.strip() for name in names).items() if times > 1]
    if repeated:
        name, times = repeated[0]
        raise ValueError(f"class names: found {name!r} {times} times, each name once is expected; leave out the others")
    return names
