"""A device or a tagger that is not here is reported by the dry run, where the run needs it and nowhere else."""

from pathlib import Path

import pytest
import torch

from pipeline.dry_run.dry_run import dry_run
from pipeline.mine.tagger import sources
from pipeline.mine.tagger.sources import load_tagger
from pipeline.stage_names import STAGE_NAMES
from tests.pipeline.dry_run.test_dry_run import all_stages, settings_of

TRAINING, MINING = "proposal_net.dataset=drawn", "mine.dataset=drawn"


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)


@pytest.fixture
def two_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr("pipeline.dry_run.dry_run.operations_per_second", lambda *_: 1e12)


@pytest.fixture
def no_spacy(monkeypatch):
    monkeypatch.setattr(sources, "SPACY_MODEL", "no_such_model")
    load_tagger.cache_clear()
    yield
    load_tagger.cache_clear()


def missing(settings, stages=STAGE_NAMES) -> list[tuple[str, str]]:
    return [(finding.where, finding.text) for finding in dry_run(settings, stages).findings if finding.is_missing]


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_a_device_that_is_not_there_is_missing(device: str, tmp_path: Path) -> None:
    ((where, text),) = missing(all_stages(tmp_path, f"compute.device='{device}'"))
    assert where == "compute.device"
    assert text == f"'{device}', but torch sees no CUDA device; set it to 'auto' or 'cpu'"


@pytest.mark.usefixtures("two_gpus")
def test_a_gpu_of_a_number_that_is_not_there_is_missing(tmp_path: Path) -> None:
    assert missing(all_stages(tmp_path, "compute.device='cuda:1'")) == []
    ((where, text),) = missing(all_stages(tmp_path, "compute.device='cuda:2'"))
    assert where == "compute.device"
    assert text == "'cuda:2', but torch sees 2 CUDA devices, from cuda:0 on; choose one of them"


@pytest.mark.usefixtures("two_gpus")
def test_a_gpu_that_cannot_compute_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def too_old(*_: object) -> float:
        message = "CUDA error: CUDA driver version is insufficient\nSearch for it"
        raise RuntimeError(message)

    monkeypatch.setattr("pipeline.dry_run.dry_run.operations_per_second", too_old)
    ((where, text),) = missing(all_stages(tmp_path, "compute.device='cuda:1'"))
    assert where == "compute.device"
    assert text == "'cuda:1' cannot compute (CUDA error: CUDA driver version is insufficient); choose another one"


@pytest.mark.usefixtures("no_gpu")
def test_preparing_and_a_cluster_elsewhere_need_no_device_here(tmp_path: Path) -> None:
    cuda, cluster = "compute.device='cuda'", "dask.address='tcp://10.0.0.1:8786'"
    assert missing(settings_of(tmp_path, cuda)) == []
    assert missing(all_stages(tmp_path, cuda, cluster), ["mine"]) == []
    assert [where for where, _ in missing(settings_of(tmp_path, cuda, cluster, TRAINING))] == ["compute.device"]


@pytest.mark.usefixtures("no_spacy")
def test_a_tagger_that_is_not_installed_is_missing(tmp_path: Path) -> None:
    ((where, text),) = missing(settings_of(tmp_path, MINING, "mine.nouns.tagger='spacy'"))
    assert where == "mine.nouns.tagger"
    assert text.startswith("tagger 'spacy' needs spaCy and its model 'no_such_model', which are not installed")


def test_nltks_weights_that_are_not_downloaded_are_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nltk.data.path", [str(tmp_path)])
    load_tagger.cache_clear()
    ((where, text),) = missing(settings_of(tmp_path, MINING, "mine.nouns.tagger='nltk'"))
    assert where == "mine.nouns.tagger"
    assert "run 'python -m nltk.downloader averaged_perceptron_tagger_eng'" in text


def test_an_embedded_tagger_that_was_not_installed_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "EMBEDDED_MODEL_FILE", "no_such_file.json.gz")
    ((where, text),) = missing(settings_of(tmp_path, MINING))
    assert where == "mine.nouns.tagger"
    assert "file 'no_such_file.json.gz', which is not installed; install the package again" in text


@pytest.mark.usefixtures("no_spacy")
@pytest.mark.parametrize(
    "overrides", [(TRAINING,), (MINING, "mine.source='masks-classes'")], ids=["without mining", "class names"]
)
def test_a_run_without_captions_needs_no_tagger(overrides: tuple[str, ...], tmp_path: Path) -> None:
    assert missing(settings_of(tmp_path, "mine.nouns.tagger='spacy'", *overrides)) == []
