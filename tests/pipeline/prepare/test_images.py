"""The check of image bytes: nothing that Pillow stumbles over may pass, and nothing sound may be refused."""

import io
import random
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipeline.prepare.faults import FAULTS, SceneFault
from pipeline.prepare.images import ImageFacts, exif_orientation, inspect_image
from tests.pipeline.prepare.layouts import encoded, jpeg, picture

LIMIT_PX = 1 << 20
GREY = picture(30, 20)[..., 0]


def inspect(data: bytes) -> ImageFacts:
    return inspect_image(data, max_image_px=LIMIT_PX)


def slug_of(data: bytes) -> str:
    try:
        inspect(data)
    except SceneFault as fault:
        return fault.slug if fault.slug in FAULTS else "a slug that FAULTS lacks"
    return "ok"


def pillow_fails(data: bytes) -> bool:
    try:
        Image.open(io.BytesIO(data)).load()
    except (OSError, SyntaxError, ValueError, struct.error):
        return True
    return False


SOUND = {
    "rgb": (jpeg(30, 20), ("jpg", 30, 20, 1, "rgb")),
    "progressive": (jpeg(30, 20, progressive=True), ("jpg", 30, 20, 1, "rgb")),
    "optimised": (jpeg(30, 20, optimize=True, subsampling=0), ("jpg", 30, 20, 1, "rgb")),
    "restarts": (jpeg(64, 48, restart_marker_blocks=1), ("jpg", 64, 48, 1, "rgb")),
    "grey": (encoded(GREY, "JPEG"), ("jpg", 30, 20, 1, "grey")),
    "cmyk": (encoded(Image.new("CMYK", (30, 20), (9, 80, 7, 0)), "JPEG"), ("jpg", 30, 20, 1, "cmyk")),
    "png": (encoded(picture(30, 20)), ("png", 30, 20, 1, "rgb")),
    "png grey": (encoded(GREY), ("png", 30, 20, 1, "grey")),
    "png grey alpha": (encoded(Image.fromarray(GREY).convert("LA")), ("png", 30, 20, 1, "grey")),
    "png palette": (encoded(Image.fromarray(picture(30, 20)).quantize(16)), ("png", 30, 20, 1, "palette")),
    "png alpha": (encoded(Image.fromarray(picture(30, 20)).convert("RGBA")), ("png", 30, 20, 1, "rgb")),
    "trailing bytes": (jpeg(30, 20) + b"more", ("jpg", 30, 20, 1, "rgb")),
    "fill bytes": (jpeg(30, 20).replace(b"\xff\xdb", b"\xff\xff\xff\xdb", 1), ("jpg", 30, 20, 1, "rgb")),
    "comment": (jpeg(30, 20, comment=b"\xff\xd9" * 9), ("jpg", 30, 20, 1, "rgb")),
}


@pytest.mark.parametrize("name", SOUND)
def test_sound_images_pass_with_their_facts(name):
    data, facts = SOUND[name]
    assert inspect(data) == ImageFacts(*facts)
    assert Image.open(io.BytesIO(data)).convert("RGB").size == facts[1:3]


@pytest.mark.parametrize("name", ["rgb", "progressive", "grey", "cmyk", "restarts", "png"])
def test_every_cut_of_a_file_is_found(name):
    data = SOUND[name][0]
    assert slug_of(data) == "ok"
    assert all(slug_of(data[:length]) in {"image_truncated", "image_unreadable"} for length in range(len(data)))


@pytest.mark.parametrize("name", ["rgb", "progressive", "cmyk", "png"])
def test_zero_filled_tails_are_found(name):
    data = SOUND[name][0]
    for kept in range(2, len(data) - 2, 5):
        assert slug_of(data[:kept] + bytes(len(data) - kept)) != "ok", kept


@pytest.mark.parametrize("name", ["rgb", "progressive", "optimised", "restarts", "grey", "cmyk"])
def test_whatever_pillow_cannot_decode_is_found(name):
    data = SOUND[name][0]
    rng = random.Random(0)
    missed = []
    failures = 0
    for _ in range(2500):
        broken = bytearray(data)
        for _ in range(rng.choice((1, 1, 4))):
            broken[rng.randrange(2, len(data))] = rng.choice((rng.randrange(256), 0, 255))
        if pillow_fails(bytes(broken)):
            failures += 1
            if slug_of(bytes(broken)) == "ok":
                missed.append(bytes(broken))
    assert failures > 50
    assert not missed


def test_any_changed_byte_of_a_png_is_found():
    data = SOUND["png palette"][0]
    for at in range(len(data)):
        assert slug_of(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]) != "ok"


@given(st.binary(max_size=300), st.sampled_from([b"", b"\xff\xd8\xff", b"\xff\xd8\xff\xc0", b"\x89PNG\r\n\x1a\n"]))
def test_any_bytes_give_facts_or_a_fault(data, start):
    assert slug_of(start + data) in {"image_unreadable", "image_truncated", "image_mode_unsupported", "image_too_large"}


@pytest.mark.parametrize(
    ("data", "slug", "reason"),
    [
        (b"", "image_unreadable", "the file is empty"),
        (b"<html>404</html>", "image_unreadable", "starts with 3c 68 74 6d 6c"),
        (encoded(picture(), "BMP"), "image_unreadable", "starts with 42 4d"),
        (jpeg()[:-2], "image_truncated", "ends without an end marker"),
        (encoded(picture())[:-12], "image_truncated", "ends without an end chunk"),
        (encoded(GREY.astype(np.uint16) * 256), "image_mode_unsupported", "16-bit grey"),
        (jpeg().replace(b"\xff\xc0", b"\xff\xc9", 1), "image_mode_unsupported", "process 0xc9"),
        (jpeg().replace(b"\xff\xc0\x00\x11\x08", b"\xff\xc0\x00\x11\x0c", 1), "image_mode_unsupported", "12 bits"),
    ],
)
def test_faults_say_what_was_found(data, slug, reason):
    with pytest.raises(SceneFault, match=reason) as found:
        inspect(data)
    assert found.value.slug == slug


def png_of(*chunks: tuple[bytes, bytes]) -> bytes:
    """Put a PNG file together of kinds and bodies of chunks."""
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )


HEADER = struct.pack(">IIBBBBB", 4, 3, 8, 2, 0, 0, 0)
PIXELS, END = (b"IDAT", zlib.compress(bytes(39))), (b"IEND", b"")


@pytest.mark.parametrize(
    ("chunks", "reason"),
    [
        ([PIXELS, END], "its first chunk is b'IDAT', expected IHDR"),
        ([(b"IHDR", HEADER[:-1]), PIXELS, END], "its header has 12 bytes, expected 13"),
        ([(b"IHDR", struct.pack(">IIBBBBB", 0, 3, 8, 2, 0, 0, 0)), PIXELS, END], "its header states 0 x 3 px"),
        ([(b"IHDR", struct.pack(">IIBBBBB", 4, 3, 7, 2, 0, 0, 0)), PIXELS, END], "7 bits of colour type 2"),
        ([(b"IHDR", HEADER), END], "it has no pixels"),
        ([(b"IHDR", struct.pack(">IIBBBBB", 4, 3, 8, 3, 0, 0, 0)), PIXELS, END], "it has no palette"),
    ],
)
def test_broken_pngs_say_what_is_broken(chunks, reason):
    assert slug_of(png_of((b"IHDR", HEADER), PIXELS, END)) == "ok"
    with pytest.raises(SceneFault, match=f"image_unreadable: PNG is broken: .*{reason}"):
        inspect(png_of(*chunks))


def test_a_jpeg_without_a_picture_says_so():
    with pytest.raises(SceneFault, match="image_unreadable: JPEG is broken: it ends without a picture in it"):
        inspect(b"\xff\xd8\xff\xfe\x00\x02\xff\xd9")


def test_a_decompression_bomb_is_refused_by_its_header():
    bomb = png_of((b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)), PIXELS, END)
    with pytest.raises(SceneFault, match=r"60000 x 60000 px, at most 1048576 px are allowed \(max_image_px\)"):
        inspect(bomb)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("file_format", ["JPEG", "PNG"])
def test_exif_orientation_is_recorded_and_not_applied(orientation, file_format):
    exif = Image.Exif()
    exif[274] = orientation
    facts = inspect(encoded(picture(30, 20), file_format, exif=exif))
    assert (facts.width_px, facts.height_px, facts.exif_orientation) == (30, 20, orientation)


@pytest.mark.parametrize(
    "exif", [b"", b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*\0\0\0\x08\0\x01", b"x"]
)
def test_broken_exif_means_no_orientation(exif):
    assert exif_orientation(exif) == 1


@given(st.binary(max_size=80))
def test_any_exif_gives_an_orientation(data):
    assert 1 <= exif_orientation(b"Exif\0\0" + data) <= 8
    assert 1 <= exif_orientation(b"Exif\0\0MM\0*\0\0\0\x08" + data) <= 8
