"""The stage as a whole: all sources, never twice, same bytes however it runs, counts that add up."""

import io
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from distributed import LocalCluster
from PIL import Image

from ovseg_models.mask_adapted_clip import MaskAdaptedClip
from ovseg_models.masked_crops import crops_of_regions
from ovseg_models.proposal_net import ProposalNet
from ovseg_models.text_classifier import TextClassifier
from pipeline.clip_loading import load_clip
from pipeline.dataflow import dataflow
from pipeline.errors import StageError
from pipeline.graph import MissingInputError
from pipeline.mine.regions import EXPECTED
from pipeline.mine.tagger.sources import TaggerMissingError, load_tagger
from pipeline.settings import SettingsError
from pipeline.shard_runner import Execution
from pipeline.stages import run
from pipeline.states import states_of
from storage_schemas.artifact import artifacts_below
from storage_schemas.pairs import read_index, read_members
from storage_schemas.rle import decode_masks, encode_masks
from storage_schemas.scenes import SceneShard
from tests import forked
from tests.pipeline.mine.mining_world import QUERIES, files_of, mine_in, mining_settings, pair_rows, with_net
from tests.pipeline.planned import artifact_of, node_of
from tests.pipeline.prepare.layouts import jpeg, make_folder, put
from tests.storage_schemas.faulty_disks import Killed, KillingDisk

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def mined(tmp_path_factory):
    settings = with_net(mining_settings(tmp_path_factory.mktemp("mined")))
    return settings, run("mine", settings)


@pytest.fixture
def forward_passes(monkeypatch):
    """Count pictures through the proposal net, crops through CLIP, and nouns through the text tower."""
    counts = Counter()

    def counting(owner, name, what, size):
        original = getattr(owner, name)

        def counted(self, values, *arguments, **options):
            counts[what] += size(values)
            return original(self, values, *arguments, **options)

        monkeypatch.setattr(owner, name, counted)

    counting(ProposalNet, "forward", "pictures", len)
    counting(MaskAdaptedClip, "encode_image", "crops", len)
    counting(TextClassifier, "text_embeddings", "nouns", lambda names: len(names) if len(names) == 1 else 0)
    return counts


def test_counts_add_up_and_rows_lead_back_to_image_caption_and_mask(mined):
    settings, report = mined
    assert report.of_kind("proposals")[0].manifest.counts == {"ok": 4 * QUERIES}
    assert report.of_kind("embeddings")[0].manifest.counts == {"ok": 4 * QUERIES}
    rows = pair_rows(report.artifact)
    assert sum(report.of_kind("pairs")[0].manifest.counts.values()) == len(rows) > 4
    pairs = node_of(settings, "pairs")
    regions = pairs.step.job(pairs).regions
    by_key = {
        scene.key: (scene, found) for unit in report.artifact.description.units for scene, found in regions.read(unit)
    }
    for row in rows:
        scene, found = by_key[row["key"]]
        (caption,) = [caption for caption in scene.captions if caption.caption_id == row["caption_id"]]
        assert caption == scene.captions[0]
        assert caption.text[row["noun_start"] : row["noun_end"]] == row["noun_text"]
        assert row["image_id"] == scene.image_id
        place = found.indices.tolist().index(row["region"])
        assert found.mask_counts[place] == row["mask_counts"]
    assert [row["pair"] for row in rows] == sorted({row["pair"] for row in rows})


@torch.no_grad()
def test_stored_pairs_give_the_reference_crop_and_its_score(mined):
    settings, report = mined
    clip = load_clip(settings.clip)
    adapted = MaskAdaptedClip(clip.clip, prompt_depth=0).eval()
    classifier = TextClassifier(clip.clip, clip.tokenize)
    for unit in report.artifact.description.units:
        index = read_index(report.artifact, unit)
        rows = list(range(index.num_rows))
        for row, members in zip(index.to_pylist(), read_members(report.artifact, unit, index, rows), strict=True):
            pixels = torch.from_numpy(np.array(Image.open(io.BytesIO(members.crop)))).permute(2, 0, 1)
            mask = torch.from_numpy(np.array(Image.open(io.BytesIO(members.crop_mask_png))) > 0)
            crops, _ = crops_of_regions([(pixels, mask)], crop_px=adapted.crop_px)
            text = classifier.text_embeddings([row["noun"]], ["a photo of a {}."])
            if settings.mine.pair.prompt_templates == "vild":
                from ovseg_models.prompt_templates import VILD

                text = classifier.text_embeddings([row["noun"]], VILD)
            score = float(adapted.encode_image(crops) @ text.T)
            assert score == pytest.approx(row["score"], abs=1e-3)


def test_a_second_run_does_nothing(mined, forward_passes):
    settings, report = mined
    again = run("mine", settings)
    assert again.artifact == report.artifact
    assert again.units_done == 0
    assert not forward_passes


@pytest.mark.parametrize(
    "changes",
    [
        ["mine.source=proposals-5-captions"],
        ["mine.nouns.compound_nouns=true"],
        ["mine.nouns.stop_words=['photo','picture']"],
        ["mine.nouns.lemmas=false", "mine.nouns.shipped_stop_words=true"],
        ["mine.pair.prompt_templates=single"],
        ["mine.pair.min_score=0.5"],
        ["mine.pair.min_area_share=0.5"],
        ["mine.pair.crop_format=jpg"],
    ],
)
def test_what_changes_step_3_alone_puts_no_picture_through_a_model(mined, forward_passes, changes):
    settings, before = mined
    changed = mining_settings(settings.runs_dir, *changes)
    report = run("mine", changed)
    assert forward_passes["pictures"] == forward_passes["crops"] == 0
    assert report.of_kind("proposals")[0].artifact == before.of_kind("proposals")[0].artifact
    assert report.of_kind("embeddings")[0].artifact == before.of_kind("embeddings")[0].artifact
    assert report.artifact != before.artifact
    known = {row["noun"] for row in pair_rows(before.artifact)}
    new = {row["noun"] for row in pair_rows(report.artifact)} - known
    if "prompt_templates" not in changes[0]:
        assert forward_passes["nouns"] <= len(new)


def test_another_mask_threshold_redoes_all(mined, forward_passes):
    settings, before = mined
    report = run("mine", mining_settings(settings.runs_dir, "mine.propose.mask_threshold=0.4"))
    assert forward_passes["pictures"] == 4
    assert forward_passes["crops"] == sum(report.of_kind("embeddings")[0].manifest.counts.values())
    assert report.artifact != before.artifact


def test_five_captions_name_each_noun_once_per_image(mined):
    settings, one = mined
    five = pair_rows(run("mine", mining_settings(settings.runs_dir, "mine.source=proposals-5-captions")).artifact)
    named = Counter((row["key"], row["noun"]) for row in five)
    assert set(named.values()) == {1}
    assert {(row["key"], row["noun"], row["region"], row["score"]) for row in pair_rows(one.artifact)} < {
        (row["key"], row["noun"], row["region"], row["score"]) for row in five
    }


def test_ground_truth_masks_need_no_proposal_net(tmp_path, forward_passes):
    classes = run("mine", mining_settings(tmp_path, "mine.source=masks-classes"))
    assert {report.artifact.identity.kind for report in classes.reports} == {"embeddings", "text_embeddings", "pairs"}
    crops = forward_passes["crops"]
    nouns = run("mine", mining_settings(tmp_path, "mine.source=masks-1-caption"))
    assert forward_passes["crops"] == crops == len(pair_rows(classes.artifact))
    assert forward_passes["pictures"] == 0
    scenes = {
        scene.key: scene
        for artifact in artifacts_below(tmp_path, "scenes")
        for unit in artifact.description.units
        for scene in SceneShard(artifact, unit).scenes()
    }
    for row in pair_rows(classes.artifact):
        label = np.asarray(Image.open(io.BytesIO(scenes[row["key"]].label_png)))
        mask = decode_masks([row["mask_counts"]], row["height_px"], row["width_px"])[0]
        np.testing.assert_array_equal(mask, label == row["region"])
        assert row["caption_id"] is None
    assert all(row["caption_id"] is not None for row in pair_rows(nouns.artifact))


def test_masks_of_left_out_classes_are_no_regions(tmp_path):
    source = "mine.source=masks-classes"
    whole = run("mine", mining_settings(tmp_path, source)).artifact
    rows = [row for row in pair_rows(whole) if row["status"] == "ok"]
    left_out = sorted({row["noun"] for row in rows})[::2]
    names = f"mine.left_out_classes={left_out}"
    kept = pair_rows(run("mine", mining_settings(tmp_path, source, names)).artifact)
    assert [(row["key"], row["noun"]) for row in kept if row["status"] == "ok"] == [
        (row["key"], row["noun"]) for row in rows if row["noun"] not in left_out
    ]
    proposed = run("mine", with_net(mining_settings(tmp_path))).artifact.directory
    assert run("mine", mining_settings(tmp_path, names)).artifact.directory == proposed
    with pytest.raises(SettingsError, match=r"mine.left_out_classes: \['zeppelin'\] are none of the 54 classes"):
        run("mine", mining_settings(tmp_path, source, "mine.left_out_classes=['zeppelin']"))


def poisoned(root: Path) -> None:
    """Make a folder of seven pictures of which two are fine."""
    make_folder(root, images=7)
    lines = ["image\tcaption", "shot_0\ta road under the sky", "shot_1\ta road", "shot_2\tis it?", "shot_4\ta sky"]
    lines += ["shot_5\tthe road", "shot_6\ta car"]
    put(root / "captions.tsv", "\n".join(lines) + "\n")  # none of shot_3
    put(root / "images" / "shot_1.jpg", jpeg(24, 16, 1)[:-200])
    put(root / "images" / "shot_4.jpg", b"<html>")


def test_poisoned_inputs_become_rows_with_reasons(tmp_path):
    poisoned(tmp_path / "data")
    dataset = f"{{dataset='folder', root='{tmp_path / 'data'}', scenes_per_shard=3}}"
    settings = mining_settings(tmp_path / "runs", "compute.max_failed_share=0.5", dataset=dataset)
    report = run("mine", with_net(settings))
    statuses = {row["key"]: row["status"] for row in pair_rows(report.artifact)}
    assert statuses["shot_1"].startswith("image_")
    assert statuses["shot_4"].startswith("image_")
    assert (statuses["shot_2"], statuses["shot_3"]) == ("no_noun", "no_caption")
    assert (statuses["shot_0"], statuses["shot_5"], statuses["shot_6"]) == ("ok", "ok", "ok")
    rows = pair_rows(report.artifact)
    assert all((row["reason"] == "") == (row["status"] == "ok") == (row["crop"] is not None) for row in rows)
    counts = report.of_kind("pairs")[0].manifest.counts
    assert counts == dict(sorted(Counter(row["status"] for row in rows).items()))
    assert sum(counts.values()) == len(rows) == 8
    without = mining_settings(tmp_path / "runs", "compute.max_failed_share=0.05", dataset=dataset)
    with pytest.raises(StageError, match="rows failed"):
        run("mine", without)


def test_no_pair_at_all_is_an_error(tmp_path):
    settings = with_net(mining_settings(tmp_path, "mine.propose.mask_threshold=0.999999999"))  # 1 in fp32
    with pytest.raises(StageError, match=r"holds no pair, its rows are {'no_proposals': \d+}; see their reasons"):
        run("mine", settings)


@pytest.mark.parametrize(
    ("source", "what"), [("masks-classes", "labels are expected"), ("proposals-1-caption", "captions are expected")]
)
def test_a_source_that_the_data_set_lacks_is_refused(tmp_path, source, what):
    make_folder(tmp_path / "data")
    for path in (tmp_path / "data" / "captions.tsv", *(tmp_path / "data" / "labels").iterdir()):
        path.unlink()
    dataset = f"{{dataset='folder', root='{tmp_path / 'data'}'}}"
    settings = mining_settings(tmp_path / "runs", f"mine.source={source}", "proposal_net.dataset=''", dataset=dataset)
    with pytest.raises(SettingsError, match=f"mine.source: {what}, no scene of 'folder' has any"):
        run("mine", settings)


def test_a_missing_tagger_is_reported_before_any_picture_is_read(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "spacy", None)
    load_tagger.cache_clear()
    with pytest.raises(TaggerMissingError, match=r"run 'pip install ovseg-pipeline\[spacy\]'"):
        run("mine", mining_settings(tmp_path, "mine.nouns.tagger=spacy"))
    assert not list(artifacts_below(tmp_path))


def test_without_a_proposal_net_the_stage_says_what_to_run(tmp_path):
    settings = mining_settings(tmp_path)
    with pytest.raises(MissingInputError, match="is not finished; run 'ovseg train-proposals' first"):
        run("mine", settings)
    reasons = {state.artifact: state.reason for state in states_of(dataflow(settings).nodes)}
    assert all("run 'ovseg prepare' first" in reasons[f"{kind}/run"] for kind in ("proposals", "embeddings", "pairs"))


def test_settings_imply_the_artifacts_of_mining(mined):
    settings, report = mined
    artifacts = {node.label: node.artifact for node in dataflow(settings).nodes if node.step.stage == "mine"}
    assert artifacts["pairs/run"] == report.artifact
    assert artifacts["proposals/run"] == report.of_kind("proposals")[0].artifact
    assert artifact_of(settings, "embeddings") == report.of_kind("embeddings")[0].artifact


def test_a_kill_in_any_step_changes_no_byte(mined, tmp_path):
    reference = files_of(mined[0].runs_dir)
    settings = with_net(mining_settings(tmp_path))
    kills = 0
    for kind in ("proposals", "embeddings", "pairs"):
        for call in (6, 17, 25):
            node = node_of(settings, kind)
            job = node.step.job(node)
            if kind == "pairs":
                job = replace(job, texts=mined[1].of_kind("text_embeddings")[0].artifact)
            try:
                Execution.of(settings).run(job, replace(node.artifact, disk=KillingDisk(call)), tolerated=EXPECTED)
            except Killed:
                kills += 1
        if kind != "pairs":
            node_of(settings, kind).make(Execution.of(settings))
    run("mine", settings)
    assert kills >= 6
    found = files_of(tmp_path)
    assert found == {name: reference[name] for name in found}
    assert any(name.startswith("pairs/") for name in found)


def test_one_pass_keeps_the_proposals_and_a_kill_changes_no_byte(mined, tmp_path):
    by_one_pass = "mine.embed.namer=one-pass"
    whole = with_net(mining_settings(tmp_path / "whole", by_one_pass))
    run("mine", whole)
    for kind, is_same in (("proposals", True), ("embeddings", False), ("pairs", False)):
        names = {artifact_of(settings, kind).directory.name for settings in (mined[0], whole)}
        assert (len(names) == 1) is is_same
    inherited = mining_settings(tmp_path / "whole", "one_pass.side_px=128", "namer=crops")  # crops have no such size
    assert artifact_of(inherited, "embeddings").directory.name == artifact_of(mined[0], "embeddings").directory.name

    killed = with_net(mining_settings(tmp_path / "killed", by_one_pass, "compute.decode_threads=1"))
    node_of(killed, "proposals").make(Execution.of(killed))
    kills = 0
    for call in (6, 17, 25):
        node = node_of(killed, "embeddings")
        try:
            disk = KillingDisk(call)
            Execution.of(killed).run(node.step.job(node), replace(node.artifact, disk=disk), tolerated=EXPECTED)
        except Killed:
            kills += 1
    assert kills >= 2
    run("mine", killed)
    reference, found = files_of(tmp_path / "whole"), files_of(tmp_path / "killed")
    assert found == {name: reference[name] for name in found}
    assert any(name.startswith("pairs/") for name in found)


@pytest.mark.slow
def test_all_steps_on_two_workers_give_the_same_bytes(mined, tmp_path):
    with (
        forked.dask_workers(),
        LocalCluster(
            n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0", memory_limit=0
        ) as cluster,
    ):
        address = f"dask.address={cluster.scheduler_address}"
        run("mine", with_net(mining_settings(tmp_path, address, "dask.connect_limit_s=120")))
    reference, found = files_of(mined[0].runs_dir), files_of(tmp_path)
    assert found == {name: reference[name] for name in found}
    assert any(name.startswith("pairs/") for name in found)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_kill_9_in_the_middle_changes_no_byte(mined, tmp_path, workers):
    """The killed run works in its own process or on Dask's workers; the next one, in this process, goes on."""
    settings = with_net(mining_settings(tmp_path))
    process = forked.start(mine_in, tmp_path, (f"compute.workers={workers}",))
    while process.is_alive() and not any(
        [*tmp_path.glob("embeddings/*/.tmp-*"), *tmp_path.glob("embeddings/*/shard-*.json"), *tmp_path.glob("pairs/*")]
    ):
        time.sleep(0.005)
    forked.kill([process])
    run("mine", settings)
    reference, found = files_of(mined[0].runs_dir), files_of(tmp_path)
    assert found == {name: reference[name] for name in found}
    assert any(name.startswith("pairs/") for name in found)


def test_masks_of_pairs_are_what_the_tar_holds(mined):
    _, report = mined
    for unit in report.artifact.description.units:
        index = read_index(report.artifact, unit)
        for row, members in zip(
            index.to_pylist(), read_members(report.artifact, unit, index, range(index.num_rows)), strict=True
        ):
            left, top, right, bottom = row["box_xyxy"]
            whole = np.zeros((1, row["height_px"], row["width_px"]), bool)
            whole[0, top:bottom, left:right] = np.asarray(Image.open(io.BytesIO(members.crop_mask_png))) > 0
            assert encode_masks(whole)[0] == row["mask_counts"]


def test_stage_3_trains_on_the_mined_pairs_unless_others_are_named(mined):
    settings, report = mined
    assert node_of(settings, "adapted_clip")["pairs"].artifact == report.artifact
