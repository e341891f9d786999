import pytest
import torch

from ovseg_models.checkpoint_keys.key_report import KeyReport, Rule, rename, take_tensors


def test_tensors_are_taken_and_every_fault_is_listed():
    expected = {"a": torch.zeros(2), "b": torch.zeros(2, 3), "c": torch.full((1,), 5.0), "counter": torch.tensor(4)}
    found = {"A": torch.ones(2), "B": torch.ones(3, 2), "rest": torch.ones(1), "known": torch.ones(1)}
    tensors, report = take_tensors(found, expected, {"a": "A", "b": "B", "c": "C"}, ignored={"known"})
    assert report == KeyReport(missing=("C",), unexpected=("rest",), misshapen=("B (3, 2), expected (2, 3)",))
    assert not report.fits
    assert tensors.keys() == expected.keys()
    assert torch.equal(tensors["a"], torch.ones(2))
    assert torch.equal(tensors["b"], expected["b"])
    assert tensors["c"] == 5
    assert tensors["counter"] == 4


def test_faults_are_described_with_counts_and_raised():
    report = KeyReport(
        missing=tuple(f"key{i:02}" for i in range(23)), misshapen=("w (2,), expected (3,)",), notes=("so",)
    )
    text = report.describe()
    assert text.startswith("23 missing (key00, key01, ")
    assert "key19, and 3 more)" in text
    assert text.endswith("1 misshapen (w (2,), expected (3,)); so")
    with pytest.raises(ValueError, match=r"net\.pth: its keys do not fit the module: 23 missing .* 1 misshapen"):
        report.require_fit("net.pth")


def test_a_report_without_faults_fits():
    assert KeyReport().fits
    assert KeyReport().describe() == "everything fits"
    KeyReport(notes=("read",)).require_fit("net.pth")


def test_the_first_rule_that_matches_renames():
    rules = (Rule(r"a\.(\d)\.(\w+)", "x{0}/{1}", shifts=((0, 2),)), Rule(r"a\.(.+)", "y.{0}"))
    assert [rename(key, rules) for key in ("a.1.w", "a.b.c", "b.1.w")] == ["x3/w", "y.b.c", None]
