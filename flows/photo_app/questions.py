"""What a user asks: a photograph and names, read from what the browser sends; faults become messages for the page."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from ovseg_models.class_names import split_class_names
from ovseg_models.image_input import PIXELS_MAX, rgb_image

NAMES_MAX = 1000
NAME_LENGTH_MAX = 100


class QuestionError(Exception):
    """A question that cannot be answered; the message is for the page."""


@dataclass(frozen=True)
class Question:
    """A photograph and the names to find in it.

    Attributes:
        photograph: RGB, upright, at its own size.
        names: Class names, each once, in the order in which they were typed.
        find: Find the named things and leave the rest, instead of giving each pixel a name.
        file_name: Of the photograph, without any folder.
    """

    photograph: Image.Image
    names: tuple[str, ...]
    find: bool
    file_name: str = "photograph"


def uploaded_file(sent: object, *, uploads: Path, examples: Collection[Path] = ()) -> tuple[Path | None, str]:
    """Return the photograph's file and name from what a request says of it.

    A request may say anything: whatever it names, only files that were uploaded, or that the page offers, are opened.

    Args:
        sent: The request's value: a mapping with ``path``, and ``orig_name`` for the name; or None for no photograph.
        uploads: Folder of uploaded files.
        examples: Files that the page offers.

    Raises:
        QuestionError: If it is another file of this machine, no regular one, or no value that the page sends.
    """
    if sent is None:
        return None, ""
    path = sent.get("path") if isinstance(sent, Mapping) else None
    name = sent.get("orig_name") if isinstance(sent, Mapping) else None
    refused = QuestionError("That file was not uploaded here; upload the photograph, or take one of the examples.")
    if not isinstance(path, str) or not path:
        raise refused
    try:
        real = Path(path).resolve(strict=True)
        offered = {example.resolve() for example in examples}
        # Neither links nor pipes: the one may lead anywhere, opening the other would wait forever.
        if not (real.is_relative_to(uploads.resolve()) or real in offered) or not real.is_file():
            raise refused
    except (OSError, ValueError, RuntimeError):
        raise refused from None
    return real, name if isinstance(name, str) and name else "The file"


def question(path: Path | None, file_name: str, names: str, *, find: bool) -> Question:
    """Read a question.

    Args:
        path: The uploaded file; None if there is none.
        file_name: What the user calls it.
        names: As typed: separated by commas, semicolons or new lines.
        find: See `Question`.

    Raises:
        QuestionError: If the photograph or the names are missing, faulty or too many.
    """
    if path is None:
        raise QuestionError("No photograph is chosen; upload one, or take one of the examples.")
    return Question(photograph(path, file_name), class_names(names), find, plain_file_name(file_name))


def class_names(typed: str) -> tuple[str, ...]:
    """Split what was typed into names, each once.

    Raises:
        QuestionError: If there is no name, one is too long, or there are too many.
    """
    names = tuple(dict.fromkeys(split_class_names(typed)))
    if not names:
        raise QuestionError("No class names are typed; write names such as: sky, grass, boat")
    if len(names) > NAMES_MAX:
        raise QuestionError(f"{len(names)} class names are typed, at most {NAMES_MAX} are expected; take some away.")
    if long := [name for name in names if len(name) > NAME_LENGTH_MAX]:
        raise QuestionError(
            f"The name '{long[0][:30]}...' has {len(long[0])} characters, at most {NAME_LENGTH_MAX} are expected; "
            "separate names by commas."
        )
    return names


def plain_file_name(name: str) -> str:
    """Return what a user calls a file as a name without folders and odd signs; results are named after it."""
    plain = "".join(sign for sign in name.replace("\\", "/").rpartition("/")[2] if sign.isprintable())
    stem, dot, suffix = plain.rpartition(".")
    short = f"{stem[:NAME_LENGTH_MAX]}{dot}{suffix[:8]}" if stem else plain[:NAME_LENGTH_MAX]
    return short if short.strip(". ") else "photograph"


def photograph(path: Path, file_name: str) -> Image.Image:
    """Read a photograph as RGB, upright, at its own size, which is checked before its pixels are decoded.

    Raises:
        QuestionError: If the file is no image, is damaged, or has too many pixels.
    """
    try:
        with Image.open(path) as opened:
            width_px, height_px = opened.size
        if width_px * height_px <= PIXELS_MAX:
            return rgb_image(path)
    except Image.DecompressionBombError as error:
        raise QuestionError(f"{file_name} has far too many pixels; shrink it and upload it again.") from error
    except (ValueError, OSError, SyntaxError) as error:
        raise QuestionError(
            f"{file_name} cannot be read as an image; a whole JPEG, PNG, WebP or the like is expected."
        ) from error
    raise QuestionError(
        f"{file_name} has {width_px} x {height_px} pixels, at most {PIXELS_MAX / 1e6:.0f} million are expected; "
        "shrink it and upload it again."
    )
