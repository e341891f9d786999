"""What a command reads where all is done: each data set and each artifact once."""

from collections import Counter
from pathlib import Path

import pytest

from flows.command import main
from pipeline.prepare import prepare as preparation
from pipeline.settings import Settings, load_settings, settings_toml
from storage_schemas.artifact import Artifact

EVALUATED = ("a", "b", "c", "d", "e")


def whole_settings(runs: Path) -> Settings:
    """Return settings of all stages, tiny ones, with five data sets to evaluate on."""
    drawn = "{{dataset='drawn-world', split='{}', drawn_world={{scenes={}, size_px=48}}}}"
    net = "backbone={name='resnet10t', timm_arguments={channels=[8,8,8,8], stem_width=8}}, queries=4, decoder_layers=1"
    sizes = "hidden_dim=16, mask_dim=16, norm_groups=4, heads=2, feedforward_dim=16, embedding_hidden_dim=16"
    augmentation = "augmentation={short_sides_px=[48], max_side_px=48, crop_px=48}"
    training = f"steps=1, batch_images=1, warmup_steps=0, {augmentation}"
    phase = "epochs=1, batch_pairs=2, warmup_steps=0"
    return load_settings(
        None,
        [
            f"runs_dir={runs}",
            f"datasets.drawn={drawn.format('train', 4)}",
            *(f"datasets.{name}={drawn.format('test', place + 1)}" for place, name in enumerate(EVALUATED)),
            "clip={architecture='drawn-world-small', pretrained='shipped'}",
            f"proposal_net={{dataset='drawn', architecture={{{net}, {sizes}}}, training={{{training}}}}}",
            "mine={dataset='drawn', source='masks-1-caption', propose={short_side_px=48, max_side_px=48}}",
            f"finetune={{ft={{{phase}}}, mpt={{{phase}}}}}",
            f"evaluate.datasets=[{', '.join(f'{{dataset={name!r}}}' for name in EVALUATED)}]",
            "evaluate.short_side_px=48",
            "evaluate.max_side_px=48",
            "evaluate.bootstrap_rounds=2",
            "compute.loader_workers=0",
        ],
    )


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Count openings of data sets and scans of artifacts, each by what is read."""
    counts: Counter[str] = Counter()
    opened, status = preparation.open_source, Artifact.status

    def counting_open(settings):
        counts[f"open {settings.split}-{settings.drawn_world.scenes}"] += 1
        return opened(settings)

    def counting_status(artifact, **options):
        counts[f"scan {artifact.identity.kind}/{artifact.directory.name}"] += 1
        return status(artifact, **options)

    monkeypatch.setattr(preparation, "open_source", counting_open)
    monkeypatch.setattr(Artifact, "status", counting_status)
    return counts


def test_a_command_opens_a_data_set_once_and_scans_an_artifact_once(tmp_path, reads, prefect_api):
    """With five data sets to evaluate on: where all is done, and for the status."""
    del prefect_api  # a server that both runs use
    settings = whole_settings(tmp_path / "runs")
    config = tmp_path / "whole.toml"
    config.write_text(settings_toml(settings))
    assert main(["run", "--config", str(config)]) == 0
    for command in ("run", "status"):
        reads.clear()
        assert main([command, "--config", str(config)]) == 0
        assert all(count == 1 for count in reads.values()), reads
        assert len([name for name in reads if name.startswith("scan")]) == 6 + 1 + 2 + 1 + 5 + 1
