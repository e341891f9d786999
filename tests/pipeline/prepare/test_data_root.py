"""Paths stay below the root, keys are safe and distinct, messages say what to do."""

import os
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.prepare.data_root import Annotations, DataRoot, LayoutError, printable, scene_key
from pipeline.prepare.faults import SceneFault
from tests.pipeline.prepare.layouts import jpeg, put


@pytest.fixture
def root(tmp_path):
    put(tmp_path / "data" / "images" / "a.jpg", jpeg())
    put(tmp_path / "secret" / "b.jpg", jpeg())
    return DataRoot("demo", tmp_path / "data", 10_000)


@pytest.mark.parametrize(
    "path", ["../secret/b.jpg", "images/../../secret/b.jpg", "/etc/passwd", "images\\..\\b.jpg", "images/\0.jpg"]
)
def test_paths_that_name_a_way_out_are_refused(root, path):
    with pytest.raises(SceneFault, match="is not one below the root") as found:
        root.read(path, "image_missing")
    assert found.value.slug == "path_outside_root"


def test_links_out_of_the_root_are_refused_and_links_inside_are_followed(root):
    (root.directory / "images" / "out.jpg").symlink_to(root.directory.parent / "secret" / "b.jpg")
    (root.directory / "images" / "in.jpg").symlink_to("a.jpg")
    (root.directory / "linked").symlink_to(root.directory.parent / "secret")
    for path in ("images/out.jpg", "linked/b.jpg"):
        with pytest.raises(SceneFault, match="outside the root"):
            root.read(path, "image_missing")
    assert root.read("images/in.jpg", "image_missing") == jpeg()
    with pytest.raises(LayoutError, match=r"demo: linked leads to .*; give the directory that holds the files"):
        root.names("linked", hint="")


def test_a_link_to_the_root_itself_is_fine(root):
    link = root.directory.parent / "link"
    link.symlink_to(root.directory)
    assert DataRoot("demo", link, 10_000).read("images/a.jpg", "image_missing") == jpeg()


def test_reading_tells_missing_unreadable_and_too_long_files_apart(root):
    put(root.directory / "long.jpg", bytes((1 << 20) + 80_001))
    (root.directory / "images" / "dir.jpg").mkdir()
    for path, slug in (
        ("images/none.jpg", "image_missing"),
        ("images/a.jpg/b.jpg", "image_missing"),
        ("images/dir.jpg", "image_unreadable"),
        ("long.jpg", "image_too_large"),
    ):
        with pytest.raises(SceneFault) as found:
            root.read(path, "image_missing")
        assert found.value.slug == slug
    with pytest.raises(SceneFault, match="is a directory, expected a regular file") as found:
        root.read("images/dir.jpg", "label_missing")
    assert found.value.slug == "label_unreadable"


def test_pipes_and_impossible_paths_are_faults_and_never_waited_for(root):
    os.mkfifo(root.directory / "images" / "pipe.jpg")
    for path, slug in (
        ("images/pipe.jpg", "image_unreadable"),
        (f"images/{'x' * 5000}.jpg", "path_impossible"),
        ("images/\ud800.jpg", "path_impossible"),
        (f"{'d/' * 3000}a.jpg", "path_impossible"),
    ):
        scene = root.scene("k", "k", path, lambda facts: Annotations())
        assert scene.status == slug, path
        assert len(scene.reason) < 400
    assert root.scene("k", "k", "images/a.jpg", lambda facts: Annotations()).status == "ok"


def test_a_line_of_a_list_ends_at_a_line_feed_alone(root):
    put(root.directory / "list.txt", "\ufeffa\u2028b\r\nc\x0bd \n\ne".encode())
    assert root.text_lines("list.txt", "") == ["a\u2028b", "c\x0bd", "", "e"]


def test_listing_takes_images_only(root):
    for name in ("B.JPG", "c.png", ".hidden.jpg", "d.txt", "e.jpeg"):
        put(root.directory / "images" / name, b"x")
    (root.directory / "images" / "sub.jpg").mkdir()  # reading it is a fault that names it
    assert root.names("images", hint="") == ["B.JPG", "a.jpg", "c.png", "e.jpeg", "sub.jpg"]


@pytest.mark.parametrize(
    ("directory", "message"), [("none", "has no none; get it"), ("images/a.jpg", "is a file, expected a dir")]
)
def test_listing_what_is_no_directory_is_an_error(root, directory, message):
    with pytest.raises(LayoutError, match=message):
        root.names(directory, hint="get it")


def test_lists_must_be_utf8(root):
    put(root.directory / "list.txt", b"caf\xe9\n")
    with pytest.raises(LayoutError, match=r"list.txt: byte 3 is not UTF-8; save the file as UTF-8"):
        root.text_lines("list.txt", "")


@given(st.text(max_size=120), st.text(max_size=120))
def test_keys_are_safe_and_distinct(first, second):
    assert re.fullmatch(r"[A-Za-z0-9_-]{1,80}", scene_key(first))
    assert (scene_key(first) == scene_key(second)) == (first == second)


def test_plain_stems_are_their_own_keys():
    assert scene_key("000000000139") == "000000000139"
    assert scene_key("my photo (1)").startswith("my_photo__1_-")


def test_names_that_are_no_text_can_be_stored(root):
    name = b"caf\xe9.jpg".decode("utf-8", "surrogateescape")
    put(root.directory / "images" / name, jpeg())
    scene = root.scene("k", "caf", f"images/{name}", lambda facts: Annotations())
    assert scene.status == "ok"
    assert scene.source_path == printable(f"images/{name}") == "images/caf\\udce9.jpg"
