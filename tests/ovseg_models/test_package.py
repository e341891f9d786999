"""What ``ovseg_models`` offers: its public names, found by tab completion and loaded at their first use."""

import importlib.metadata
import subprocess
import sys

import pytest

import ovseg_models


def test_public_names_exist_and_are_completed():
    for name in ovseg_models.__all__:
        assert name in dir(ovseg_models)
        if not name.startswith("_"):
            assert getattr(ovseg_models, name).__module__.startswith("ovseg_models.")
    assert ovseg_models.Segmenter is sys.modules["ovseg_models.segmenter"].Segmenter
    with pytest.raises(AttributeError, match="'ovseg_models' has no attribute 'Segmentor'"):
        _ = ovseg_models.Segmentor


def test_the_version_is_that_of_the_installed_package(monkeypatch):
    monkeypatch.setattr(importlib.metadata, "version", lambda package: f"1.2.3 of {package}")
    assert ovseg_models.__version__ == "1.2.3 of ovseg-pipeline"

    def absent(package):
        raise importlib.metadata.PackageNotFoundError(package)

    monkeypatch.setattr(importlib.metadata, "version", absent)
    assert ovseg_models.__version__ == "unknown"


def test_the_package_alone_loads_no_torch():
    code = "import sys, ovseg_models; dir(ovseg_models); ovseg_models.__version__; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
