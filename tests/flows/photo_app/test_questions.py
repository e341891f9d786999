"""What users type and upload becomes a question, or a message that says what to do."""

import os

import numpy as np
import pytest
from PIL import Image

from flows.photo_app import questions
from flows.photo_app.questions import QuestionError, class_names, photograph, plain_file_name, question, uploaded_file
from tests.tiny_segmenter import picture


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "one.png"
    Image.fromarray(picture()).save(path)
    return path


def test_names_are_split_trimmed_and_taken_once():
    assert class_names(" sky,grass;  traffic   light \n sky ,, boat,") == ("sky", "grass", "traffic light", "boat")


@pytest.mark.parametrize("typed", ["", "  ", ", ;\n"])
def test_no_name_is_refused(typed):
    with pytest.raises(QuestionError, match="No class names are typed; write names such as"):
        class_names(typed)


def test_too_many_and_too_long_names_are_refused():
    assert len(class_names(",".join(map(str, range(1000))))) == 1000
    with pytest.raises(QuestionError, match="1001 class names are typed, at most 1000 are expected"):
        class_names(",".join(map(str, range(1001))))
    assert class_names("x" * 100)
    with pytest.raises(QuestionError, match=r"The name 'x{30}\.\.\.' has 101 characters, at most 100 are expected"):
        class_names("x" * 101)


def test_a_question_holds_the_photograph_and_the_names(file):
    found = question(file, "one.png", "sky, boat", find=True)
    assert np.array_equal(np.asarray(found.photograph), picture())
    assert (found.names, found.find, found.file_name) == (("sky", "boat"), True, "one.png")


def test_no_photograph_is_refused():
    with pytest.raises(QuestionError, match="No photograph is chosen; upload one"):
        question(None, "", "sky", find=False)


def test_large_photographs_keep_their_size_and_are_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned by 90 degrees
    Image.new("RGB", (3200, 800), "red").save(tmp_path / "large.jpg", exif=exif)
    assert photograph(tmp_path / "large.jpg", "large.jpg").size == (800, 3200)


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("holiday.jpg", "holiday.jpg"),
        ("/etc/passwd", "passwd"),
        ("..\\..\\a b.png", "a b.png"),
        ("..", "photograph"),
        ("x/..", "photograph"),
        ("", "photograph"),
        ("a\nb\0.jpg", "ab.jpg"),
        ("猫.jpeg", "猫.jpeg"),
        ("x" * 500 + ".png", "x" * 100 + ".png"),
        (".hidden", ".hidden"),
    ],
)
def test_results_are_named_after_the_file_and_lie_in_no_other_folder(name, plain):
    assert plain_file_name(name) == plain


@pytest.mark.parametrize(("kind", "cut"), [("PNG", 0.5), ("JPEG", 0.5), ("PNG", 0.01)])
def test_cut_files_are_refused(kind, cut, tmp_path):
    path = tmp_path / "cut"
    Image.fromarray(picture(200, 200)).save(path, kind)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * cut)])
    with pytest.raises(QuestionError, match=r"holiday\.png cannot be read as an image; a whole JPEG, PNG, WebP"):
        photograph(path, "holiday.png")


@pytest.mark.parametrize("content", [b"", b"no image", b"<svg xmlns='http://www.w3.org/2000/svg'/>"])
def test_files_that_are_no_image_are_refused_without_the_servers_path(content, tmp_path):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(QuestionError, match=r"^notes\.txt cannot be read as an image") as caught:
        photograph(tmp_path / "file", "notes.txt")
    assert str(tmp_path) not in str(caught.value)


def test_too_many_pixels_are_refused_before_they_are_decoded(file, monkeypatch):
    monkeypatch.setattr(questions, "PIXELS_MAX", 3499)
    monkeypatch.setattr(questions, "rgb_image", lambda _: pytest.fail("the pixels were decoded"))
    with pytest.raises(QuestionError, match=r"big\.png has 70 x 50 pixels, at most 0 million are expected; shrink it"):
        photograph(file, "big.png")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("limit", [100, 2000])
def test_decompression_bombs_are_refused(limit, file, monkeypatch):
    monkeypatch.setattr(questions, "PIXELS_MAX", limit)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(QuestionError, match=r"bomb\.png has (far too many|70 x 50) pixels"):
        photograph(file, "bomb.png")


def test_only_uploads_and_examples_are_opened(tmp_path):
    uploads, secret, example = tmp_path / "uploads", tmp_path / "secret.png", tmp_path / "shown" / "example.png"
    for path in (uploads / "mine.png", secret, example):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x")
    (uploads / "link.png").symlink_to(secret)
    (uploads / "folder").mkdir()
    os.mkfifo(uploads / "pipe.png")
    allowed = {"uploads": uploads, "examples": [example]}
    assert uploaded_file(None, **allowed) == (None, "")
    for path in (uploads / "mine.png", example, uploads / "folder" / ".." / "mine.png"):
        found, name = uploaded_file({"path": str(path), "orig_name": "a.png"}, **allowed)
        assert (found, name) == (path.resolve(), "a.png")
    for path in (
        *(str(secret), str(uploads / "link.png"), str(uploads / "folder"), str(uploads / "pipe.png")),
        *(str(uploads / ".." / "secret.png"), str(uploads / "absent.png"), "/dev/zero", "/proc/self/environ"),
        *("secret.png", "\0", "x" * 5000, "\ud800", "", 7, None, ["a"], {"path": str(example)}),
    ):
        with pytest.raises(QuestionError, match="was not uploaded here"):
            uploaded_file({"path": path}, **allowed)
    for sent in (str(example), [str(example)], 3, {"url": "http://127.0.0.1/a.png"}, {"path": {"path": str(example)}}):
        with pytest.raises(QuestionError, match="was not uploaded here"):
            uploaded_file(sent, **allowed)
