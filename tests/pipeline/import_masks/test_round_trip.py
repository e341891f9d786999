"""Our own proposals, exported and imported again, give the same embeddings and pairs, to the bit."""

import json

import pytest
from pycocotools import mask as coco_mask

from pipeline.import_masks.export_masks import export_masks
from pipeline.settings import SettingsError
from pipeline.stages import run, run_imports
from storage_schemas.proposals import KIND, read_proposals
from tests.pipeline.mine.mining_world import mining_settings, pair_rows, with_net
from tests.pipeline.planned import artifact_of, node_of, scenes_of

TABLES = ("parquet", "tar")


def unit_files(artifact):
    return {path.name: path.read_bytes() for path in artifact.directory.iterdir() if path.name.endswith(TABLES)}


@pytest.fixture(scope="module")
def mined(tmp_path_factory):
    settings = with_net(mining_settings(tmp_path_factory.mktemp("mined")))
    run("mine", settings)
    return settings


@pytest.fixture(scope="module")
def imported(mined, tmp_path_factory):
    """The settings of a run that mines what the first one exported."""
    file = tmp_path_factory.mktemp("exported") / "proposals.json"
    count = export_masks(artifact_of(mined, KIND), scenes_of(mined, "drawn"), file, at_net_size=True)
    assert count == len(json.loads(file.read_text())) > 4
    settings = mining_settings(mined.runs_dir, f"masks.drawn.path={file}", "mine.proposals=imported", "name=imported")
    run("mine", settings)
    return settings


@pytest.mark.parametrize("kind", ["embeddings", "pairs"])
def test_proposals_exported_and_imported_give_the_same_bytes(mined, imported, kind):
    ours, theirs = (artifact_of(settings, kind) for settings in (mined, imported))
    assert ours.directory != theirs.directory
    files = unit_files(ours)
    assert len(files) >= 2
    assert unit_files(theirs) == files
    assert pair_rows(artifact_of(imported, "pairs"))


def test_imported_proposals_are_ours_without_embeddings(mined, imported):
    ours, theirs = (artifact_of(settings, KIND) for settings in (mined, imported))
    for unit in ours.description.units:
        for one, other in zip(
            read_proposals(ours, unit, embedding_dim=96), read_proposals(theirs, unit, embedding_dim=0), strict=True
        ):
            assert (one.key, one.queries.tolist(), list(one.mask_counts)) == (
                other.key,
                other.queries.tolist(),
                list(other.mask_counts),
            )
            assert (one.height_px, one.width_px, one.areas_px.tolist()) == (96, 96, other.areas_px.tolist())
            assert one.objectness.tolist() == other.objectness.tolist()


def test_nothing_but_the_scenes_and_the_file_is_needed(imported):
    """No proposal net has a part, and status and a second run know that all is complete."""
    assert set(node_of(imported, KIND).sources) == {"scenes"}
    again = run_imports(imported)
    assert (again.units_done, again.units_skipped) == (0, 3)


@pytest.mark.slow
def test_clip_is_finetuned_on_pairs_of_imported_masks(mined, imported, tmp_path):
    """Equal pairs, so equal weights; their card alone names other proposals."""
    phase = "finetune={mode='mpt', mpt={epochs=1, batch_pairs=4, warmup_steps=0}}"
    weights = []
    for settings in (mined, imported):
        pairs = artifact_of(settings, "pairs").directory
        trained = run(
            "finetune", mining_settings(tmp_path / settings.name, phase, f"finetune.pairs_dir={pairs}")
        ).artifact
        weights.append({path.name: path.read_bytes() for path in trained.directory.glob("*.safetensors")})
    assert weights[0]
    assert weights[0] == weights[1]


def test_masks_at_the_pictures_own_size_are_what_pycocotools_reads(mined, tmp_path):
    file = tmp_path / "masks.json"
    export_masks(artifact_of(mined, KIND), scenes_of(mined, "drawn"), file)
    for record in json.loads(file.read_text()):
        assert record["segmentation"]["size"] == [96, 96]
        assert coco_mask.area(record["segmentation"]) == record["area"]
        assert coco_mask.toBbox(record["segmentation"]).tolist() == record["bbox"]


def test_another_rule_makes_other_proposals_and_a_changed_file_too(imported, tmp_path):
    first = artifact_of(imported, KIND).directory
    fewer = mining_settings(
        imported.runs_dir,
        f"masks.drawn={{path='{imported.masks['drawn'].path}', rules={{max_masks=2}}}}",
        "mine.proposals=imported",
        "name=imported",
    )
    (report,) = run_imports(fewer).of_kind(KIND)
    assert report.artifact.directory != first
    shards = report.artifact.description.units[:-1]
    scenes = [scene for unit in shards for scene in read_proposals(report.artifact, unit, embedding_dim=0)]
    assert {len(scene.queries) for scene in scenes} == {2}
    copy = tmp_path / "copy.json"
    copy.write_bytes(imported.masks["drawn"].path.read_bytes())
    moved = mining_settings(imported.runs_dir, f"masks.drawn.path={copy}", "mine.proposals=imported", "name=imported")
    assert artifact_of(moved, KIND).directory == first  # of the same contents, wherever it lies
    copy.write_text(json.dumps(json.loads(copy.read_text())[1:]))
    changed = mining_settings(imported.runs_dir, f"masks.drawn.path={copy}", "mine.proposals=imported", "name=imported")
    assert artifact_of(changed, KIND).directory != first


def test_settings_that_use_no_imported_masks_are_refused(mined):
    with pytest.raises(SettingsError, match="no imported masks are used; set"):
        run_imports(mined)


def test_masks_that_no_section_names_are_refused(mined):
    settings = mining_settings(mined.runs_dir, "mine.proposals=imported")
    with pytest.raises(SettingsError, match=r"masks: 'drawn' has no entry, .* add \[masks.drawn\] with their path"):
        run("mine", settings)
