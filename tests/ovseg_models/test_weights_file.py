import pickle
import random

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from ovseg_models.weights_file import read_weights_file


class Trap:
    """Runs code when it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return (open, (self.marker, "w"))


def test_reads_safetensors_and_torch_files_bare_or_wrapped(tmp_path):
    tensors = {"a.weight": torch.randn(2, 3), "b": torch.arange(4)}
    save_file(tensors, tmp_path / "bare.safetensors")
    torch.save(tensors, tmp_path / "bare.pt")
    torch.save({"model": tensors, "iteration": 7, "optimizer": {"state": {}}}, tmp_path / "wrapped.pth")
    torch.save({"state_dict": {f"module.{k}": v for k, v in tensors.items()}}, tmp_path / "distributed.bin")
    for name in ("bare.safetensors", "bare.pt", "wrapped.pth", "distributed.bin"):
        found = read_weights_file(tmp_path / name)
        assert found.keys() == tensors.keys()
        assert all(torch.equal(found[key], tensors[key]) for key in tensors)


def test_reads_arrays_of_numbers_and_refuses_arrays_of_objects(tmp_path):
    arrays = {"stem.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "steps": np.arange(3)}
    torch.save({"model": arrays, "__author__": "third party", "iteration": np.int64(7)}, tmp_path / "arrays.pth")
    found = read_weights_file(tmp_path / "arrays.pth")
    assert found.keys() == arrays.keys()
    assert all(np.array_equal(found[key].numpy(), arrays[key]) for key in arrays)
    torch.save({"model": {"w": np.array([None, 1])}}, tmp_path / "objects.pth")
    with pytest.raises(ValueError, match=r"objects\.pth: cannot be read without running code"):
        read_weights_file(tmp_path / "objects.pth")


@pytest.mark.parametrize(
    "save", [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content, protocol=2))]
)
def test_runs_no_code_from_the_file(tmp_path, save):
    marker = tmp_path / "code-was-run"
    save({"model": {"weight": Trap(str(marker))}}, tmp_path / "trap.pth")
    with pytest.raises(ValueError, match=r"trap\.pth: cannot be read without running code from it"):
        read_weights_file(tmp_path / "trap.pth")
    assert not marker.exists()


def test_a_file_with_a_wrong_byte_or_a_lost_end_is_read_or_refused_by_name(tmp_path):
    """Readers of damaged files fail in many ways; none may leave the command without a message."""
    tensors = {"model": {"a": torch.randn(3, 4), "b": torch.arange(5)}}
    torch.save(tensors, tmp_path / "zip.pth")
    torch.save(tensors, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    (tmp_path / "arrays.pkl").write_bytes(pickle.dumps({"model": {"a": np.arange(6.0).reshape(2, 3)}}))
    draw = random.Random(0)
    for path in sorted(tmp_path.iterdir()):
        content = path.read_bytes()
        for _ in range(150):
            place = draw.randrange(len(content))
            damaged = content[:place] + (bytes([draw.randrange(256)]) + content[place + 1 :]) * draw.randrange(2)
            path.write_bytes(damaged)
            try:
                read_weights_file(path)
            except ValueError as error:
                assert str(error).startswith(str(path))  # noqa: PT017 - it may be read as well


def test_damaged_empty_and_foreign_files_are_refused(tmp_path):
    (tmp_path / "cut.safetensors").write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00{")
    (tmp_path / "cut.pth").write_bytes(b"")
    for name, found in (("cut.safetensors", "or is damaged"), ("cut.pth", "is empty")):
        with pytest.raises(ValueError, match=rf"{name}: .*{found}"):
            read_weights_file(tmp_path / name)
    torch.save([1, 2, 3], tmp_path / "list.pt")
    with pytest.raises(ValueError, match=r"list\.pt: no named tensors are in it"):
        read_weights_file(tmp_path / "list.pt")
    with pytest.raises(ValueError, match=r"weights\.onnx: ends in '\.onnx'"):
        read_weights_file(tmp_path / "weights.onnx")
