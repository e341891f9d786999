"""Files of weights that are something else, are no numbers, or would cost far more than their size."""

import io
import json
import pickle
import struct
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from ovseg_models.weights_file import open_weights_file, read_weights_file

CASE = Path(__file__).parents[3] / "shared" / "cases" / "checkpoints"


def refusal(path) -> str:
    start = time.process_time()
    with pytest.raises(ValueError, match=path.name) as caught:
        read_weights_file(path)
    assert time.process_time() - start < 30  # of this process, whatever else the machine does
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "prefix",
    [
        "_orig_mod.",
        "module._orig_mod.",
        "_orig_mod.module.",
        "module.module.",
        "_orig_mod.module._orig_mod.",
        "module.",
    ],
)
def test_prefixes_are_stripped_in_any_order_and_kept_for_writing(tmp_path, prefix):
    tensors = {"visual.proj": torch.rand(2, 3), "logit_scale": torch.tensor(1.0)}
    torch.save({"state_dict": {prefix + name: tensor for name, tensor in tensors.items()}}, tmp_path / "w.pt")
    file = open_weights_file(tmp_path / "w.pt")
    assert (file.tensors.keys(), file.prefix, file.wrapper) == (tensors.keys(), prefix, "state_dict")


def test_a_compiled_part_is_named_like_the_part_and_never_merged_with_another(tmp_path):
    save_file({"visual._orig_mod.proj": torch.ones(1), "bias": torch.ones(1)}, tmp_path / "part.safetensors")
    assert read_weights_file(tmp_path / "part.safetensors").keys() == {"visual.proj", "bias"}
    save_file({"visual._orig_mod.proj": torch.ones(1), "visual.proj": torch.ones(1)}, tmp_path / "both.safetensors")
    assert "1 tensors are there twice" in refusal(tmp_path / "both.safetensors")


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"<!DOCTYPE html><html><body>Quota exceeded</body></html>", "is an HTML page: the download failed"),
        (b"\xef\xbb\xbf\n <HTML lang=en>" + b" " * 5000, "is an HTML page: the download failed"),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "is an XML page: the download failed"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 4\n", "is a git-lfs pointer of"),
        (b'{"error": "Repository not found"}', "is a JSON text: the download failed"),
        (b'{\n  "message": "Not Found"\n}', "is a JSON text: the download failed"),
        (b"", "is empty (0 bytes)"),
        (b"\x1f\x8b\x08\x00rest", "is compressed with gzip"),
    ],
)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".pkl"])
def test_what_was_saved_in_the_place_of_weights_is_called_by_its_name(tmp_path, content, found, suffix):
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(content)
    assert found in refusal(path)


def test_a_download_that_was_cut_short_is_called_so(tmp_path):
    torch.save({"a": torch.rand(100)}, tmp_path / "cut.pth")
    save_file({"a": torch.rand(100)}, tmp_path / "cut.safetensors")
    for name in ("cut.pth", "cut.safetensors"):
        path = tmp_path / name
        path.write_bytes(path.read_bytes()[:-60])
        assert "cut short" in refusal(path)


def test_no_message_advises_an_unsafe_load(tmp_path):
    (tmp_path / "text.pth").write_bytes(b"some text that is no pickle")
    assert "weights_only" not in refusal(tmp_path / "text.pth")
    torch.save({"a": Path("x")}, tmp_path / "code.pth")
    printed = refusal(tmp_path / "code.pth")
    assert "weights_only" not in printed
    assert "pathlib" in printed


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_weights_that_are_no_numbers_are_refused_with_the_tensor(tmp_path, value, dtype):
    broken = torch.ones(3, 4, dtype=dtype)
    broken[1, 2] = value
    torch.save({"fine": torch.ones(2), "visual.proj": broken}, tmp_path / "w.pt")
    kind = "1 NaN and 0 infinite" if value != value else "0 NaN and 1 infinite"
    assert f"visual.proj holds {kind} of 12 values" in refusal(tmp_path / "w.pt")


def test_large_finite_weights_whole_numbers_and_masks_are_no_fault(tmp_path):
    largest = torch.full((4,), torch.finfo(torch.float32).max)
    half = torch.full((9,), torch.finfo(torch.float16).max, dtype=torch.float16)
    mask = torch.full((2, 2), -float("inf")).triu(1)
    torch.save({"a": largest, "b": half, "steps": torch.arange(3), "text.attn_mask": mask}, tmp_path / "w.pt")
    assert len(read_weights_file(tmp_path / "w.pt")) == 4


def binary_pickle(*parts: bytes) -> bytes:
    return b"\x80\x02" + b"".join(parts) + b"."


def doubled(kind: str) -> bytes:
    """A dictionary or tuple that holds its predecessor twice, 60 times; the tuple becomes a key."""
    if kind == "tuple":
        return binary_pickle(b"}q\x00", b"N\x85", *[b"q\x01h\x01\x86"] * 60, b"K\x01s")
    content: object = {}
    for _ in range(60):
        content = {"a": content, "b": content}
    return pickle.dumps({"model": content}, protocol=2)


HOSTILE = {
    "tuple": doubled("tuple"),
    "dictionary": doubled("dictionary"),
    "length 8": b"\x80\x04\x8e" + struct.pack("<Q", 2**31),
    "length 4": b"\x80\x02T" + struct.pack("<i", 2**31 - 1),
    "table of 2^31 places": binary_pickle(b"Nr", struct.pack("<I", 2**31 - 1)),
    "marks": binary_pickle(b"]", b"(" * 100_000),
    "nested 100,000 deep": binary_pickle(b"]" * 100_000, b"a" * 99_999),
    "long": binary_pickle(b"N0" * 250_000),
    "extension": binary_pickle(b"\x82\x01"),
}
SLOW = ("nested 100,000 deep", "long")  # 4 to 9 CPU-s each: in one form, as each form goes through the same check


@pytest.mark.parametrize(
    ("form", "name"),
    [(form, name) for form in ("pickle", "zip", "old") for name in HOSTILE if form == "pickle" or name not in SLOW],
)
def test_a_pickle_that_asks_for_more_than_its_size_is_refused_at_once(tmp_path, form, name):
    program = HOSTILE[name]
    path = tmp_path / ("w.pkl" if form == "pickle" else "w.pth")
    if form == "zip":
        torch.save({"a": torch.ones(1)}, tmp_path / "plain.pth")
        with zipfile.ZipFile(tmp_path / "plain.pth") as plain, zipfile.ZipFile(path, "w") as hostile:
            for entry in plain.infolist():
                hostile.writestr(entry.filename, program if "data.pkl" in entry.filename else plain.read(entry))
    else:
        old = b"".join(pickle.dumps(value, protocol=2) for value in (0x1950A86A20F9469CFC6C, 1001, {}))
        path.write_bytes(program if form == "pickle" else old + program)
    refusal(path)


def test_an_array_that_is_referred_to_twenty_thousand_times_is_read_once(tmp_path):
    array = np.ones(250_000, np.float32)
    content = pickle.dumps({"model": {f"w{number}": array for number in range(20_000)}}, protocol=4)
    (tmp_path / "w.pkl").write_bytes(content)
    assert "w" in refusal(tmp_path / "w.pkl")  # 20 GB, were they copied


def zipped(path, change, *, compress=zipfile.ZIP_STORED) -> None:
    """Copy a torch file with its entries changed."""
    buffer = io.BytesIO()
    torch.save({"a": torch.ones(64)}, buffer)
    with zipfile.ZipFile(buffer) as plain, zipfile.ZipFile(path, "w", compress) as out:
        for entry in plain.infolist():
            for name, content in change(entry.filename, plain.read(entry)):
                out.writestr(name, content)


def test_zip_bombs_short_storages_double_entries_and_hosts_of_entries_are_refused(tmp_path):
    bomb = tmp_path / "bomb.pth"
    zipped(
        bomb,
        lambda name, content: [(name, b"\0" * 2**28 if name.endswith("data/0") else content)],
        compress=zipfile.ZIP_DEFLATED,
    )
    assert bomb.stat().st_size < 2**19
    assert "unpack to" in refusal(bomb)
    short = tmp_path / "short.pth"
    zipped(short, lambda name, content: [(name, content[:8] if name.endswith("data/0") else content)])
    assert "its storage 0 is of 8 bytes, 256 bytes are expected" in refusal(short)
    twice = tmp_path / "twice.pth"
    with pytest.warns(UserWarning, match="Duplicate"):
        zipped(twice, lambda name, content: [(name, content)] * (2 if name.endswith("data/0") else 1))
    assert "is there twice" in refusal(twice)
    many = tmp_path / "many.pth"
    end = struct.pack("<4sHHHHIIH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, 0, 0, 0)
    large = b"PK\x06\x06" + struct.pack("<QHHIIQQQQ", 44, 45, 45, 0, 0, 10**9, 10**9, 46, 4)
    many.write_bytes(b"PK\x03\x04" + large + end)
    assert "1000000000 entries" in refusal(many)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_huge_view_of_few_bytes_a_sparse_and_a_valueless_tensor_are_refused(tmp_path):
    torch.save({"a": torch.ones(1).expand(2**40)}, tmp_path / "view.pth")
    assert "(1099511627776,)" in refusal(tmp_path / "view.pth")
    torch.save({"a": torch.sparse_coo_tensor([[0]], [1.0], (2**40,), check_invariants=True)}, tmp_path / "sparse.pth")
    assert "a is sparse" in refusal(tmp_path / "sparse.pth")
    torch.save({"a": torch.empty(2**40, device="meta")}, tmp_path / "meta.pth")
    refusal(tmp_path / "meta.pth")


def test_a_dictionary_that_holds_itself_is_no_endless_search(tmp_path):
    content: dict[str, object] = {}
    content["model"] = content
    torch.save(content, tmp_path / "self.pth")
    (tmp_path / "self.pkl").write_bytes(pickle.dumps(content))
    for name in ("self.pth", "self.pkl"):
        assert "no named tensors" in refusal(tmp_path / name)


def test_a_header_of_safetensors_that_lies_is_refused(tmp_path):
    header = json.dumps({"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}).encode()
    (tmp_path / "w.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    assert "cut short" in refusal(tmp_path / "w.safetensors")
    (tmp_path / "deep.safetensors").write_bytes(struct.pack("<Q", 2**20) + b"[" * 2**20)
    refusal(tmp_path / "deep.safetensors")


@pytest.mark.skipif(not CASE.is_dir(), reason="../shared/cases is not there")
def test_the_case_of_real_checkpoints(tmp_path):
    made = subprocess.run(
        [sys.executable, str((CASE / "make.py").resolve()), str(tmp_path)], check=False, capture_output=True, text=True
    )
    assert made.returncode == 0, made.stderr
    plain = read_weights_file(tmp_path / "plain.pt")
    for name in ("compiled.pt", "ddp_compiled.pt", "compiled_ddp.pt"):
        found = read_weights_file(tmp_path / name)
        assert found.keys() == plain.keys()
        assert all(torch.equal(found[key], plain[key]) for key in plain)
    assert "is an HTML page: the download failed" in refusal(tmp_path / "html.pth")
    assert "visual.proj holds" in refusal(tmp_path / "nan.pt")
