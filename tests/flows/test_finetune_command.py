"""``ovseg finetune``, ``ovseg bundle`` and ``ovseg export-clip``, as a user types them."""

from pathlib import Path

import tomli_w

from flows.command import main
from storage_schemas.artifact import Artifact
from tests.pipeline.finetune.finetune_run import small_settings
from tests.pipeline.finetune.made_pairs import made_pairs


def config_file(folder: Path) -> Path:
    settings = small_settings(folder / "runs", made_pairs(folder / "runs", scenes=3).directory)
    path = folder / "small.toml"
    path.write_text(tomli_w.dumps(settings.model_dump(mode="json", exclude_unset=True)))
    return path


def test_a_run_from_pairs_to_an_exported_clip(tmp_path, capsys):
    config = ["--config", str(config_file(tmp_path)), "--set", "finetune.mode=ft"]
    assert main(["finetune", *config]) == 0
    artifact = Artifact.open(Path(capsys.readouterr().out.strip()))
    assert [unit.unit for unit in artifact.manifest().units] == ["image_tower", "report"]
    assert main(["finetune", *config]) == 0
    captured = capsys.readouterr()
    assert captured.out.strip() == str(artifact.directory)
    assert "already complete" in captured.err
    assert main(["export-clip", *config, "--out", str(tmp_path / "adapted.safetensors")]) == 0
    assert f"open_clip.create_model('adapted', pretrained='{tmp_path}/adapted.safetensors')" in capsys.readouterr().out
    assert (tmp_path / "adapted.safetensors").exists()


def test_a_bundle_without_a_proposal_net_says_what_is_missing(tmp_path, capsys):
    config = ["--config", str(config_file(tmp_path)), "--set", "proposal_net.dataset=scenes"]
    assert main(["bundle", *config, "--out", str(tmp_path / "model")]) != 0
    assert "run 'ovseg prepare' first" in capsys.readouterr().err
