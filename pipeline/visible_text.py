"""Text of others made visible: control characters of class and file names must not steer a terminal or a page."""

import re

_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # all control characters but tab and line feed
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # turn the direction of what follows
    "\u2028\u2029\ufeff\ufff9-\ufffb\U000e0000-\U000e007f\ud800-\udfff]"
)


def visible(text: str) -> str:
    r"""Return a text with its control characters written out, such as ``\x1b``; tabs and line feeds stay.

    What it returns can be encoded as UTF-8.
    """

    def written_out(found: re.Match[str]) -> str:
        number = ord(found.group())
        if number < 0x100:
            return f"\\x{number:02x}"
        return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"

    return _HIDDEN.sub(written_out, text)


def visible_line(text: str) -> str:
    r"""Return a text for one line, in which line feeds and tabs are written out as well."""
    return visible(text).replace("\n", "\\n").replace("\t", "\\t")
