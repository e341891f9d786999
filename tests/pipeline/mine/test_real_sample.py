"""Real COCO pictures through ViT-B/16 at its true size, with random weights: it runs, counts add up, rows lead back."""

import json

import pytest

from pipeline.stages import run
from storage_schemas.rle import areas_px
from tests.pipeline.mine.mining_world import mining_settings, pair_rows, random_net, with_net
from tests.pipeline.planned import node_of
from tests.pipeline.prepare.layouts import SHARED_DATA

pytestmark = pytest.mark.skipif(not SHARED_DATA.is_dir(), reason=f"{SHARED_DATA} with the real samples is absent")
COCO = SHARED_DATA / "coco-sample"


def real_settings(runs, *overrides: str, images: int, queries: int):
    dataset = (
        f"{{dataset='coco', root='{COCO}', split='val2017', labels='instances', limit={images}, scenes_per_shard=2}}"
    )
    vit = "clip={architecture='ViT-B-16', pretrained='random'}"
    size = ("mine.propose.short_side_px=320", "mine.propose.max_side_px=640", "compute.max_failed_share=0")
    settings = mining_settings(runs, vit, *size, *overrides, dataset=dataset)
    return with_net(settings, random_net(queries=queries, embedding_dim=512))


@pytest.mark.slow
def test_real_pictures_are_mined_and_rows_lead_back_to_the_official_files(tmp_path):
    settings = real_settings(tmp_path, "mine.source=proposals-5-captions", images=2, queries=2)
    report = run("mine", settings)
    pairs = node_of(settings, "pairs")
    read = pairs.step.job(pairs).regions.read
    proposals = {scene.key: found for unit in report.artifact.description.units for scene, found in read(unit)}
    annotations = json.loads((COCO / "annotations" / "captions_val2017.json").read_text())
    captions = {entry["id"]: entry for entry in annotations["annotations"]}
    images = {entry["id"]: entry for entry in annotations["images"]}
    rows = pair_rows(report.artifact)
    assert {row["status"] for row in rows} == {"ok"}
    assert len({row["key"] for row in rows}) == 2
    assert len(rows) > 8
    for row in rows:
        caption, image = captions[row["caption_id"]], images[int(row["image_id"])]
        assert str(caption["image_id"]) == row["image_id"]
        assert caption["caption"][row["noun_start"] : row["noun_end"]] == row["noun_text"]
        assert min(row["height_px"], row["width_px"]) == 320
        assert row["width_px"] / row["height_px"] == pytest.approx(image["width"] / image["height"], rel=0.01)
        masks = dict(zip(proposals[row["key"]].indices.tolist(), proposals[row["key"]].mask_counts, strict=True))
        assert row["mask_counts"] == masks[row["region"]]
        assert areas_px([row["mask_counts"]], row["height_px"], row["width_px"]).tolist() == [row["area_px"]]
        assert -1 <= row["score"] <= 1
    rows_of = {step.artifact.identity.kind: step.manifest.rows for step in report.reports}
    assert rows_of == {
        "proposals": 4,
        "embeddings": 4,
        "text_embeddings": rows_of["text_embeddings"],
        "pairs": len(rows),
    }
    assert rows_of["text_embeddings"] == len({row["noun"] for row in rows})
    assert all(step.manifest.counts == {"ok": step.manifest.rows} for step in report.reports)
