"""Round trips of what stage 4 writes, and what each kind refuses."""

from pathlib import Path

import numpy as np
import pytest

from storage_schemas import branches, reports, scores, weight_choices
from storage_schemas.artifact import Artifact
from storage_schemas.errors import ArtifactError, CorruptUnitError, SchemaError
from storage_schemas.manifest import Description, Identity
from storage_schemas.report_files import report_files
from storage_schemas.tars import Member

CLASSES = 5


def planned(tmp_path: Path, kind: str, units: tuple[str, ...], version: int = 1, **attributes) -> Artifact:
    identity = Identity(kind=kind, name="x", schema_version=version, producer_version=1, settings={})
    artifact = Artifact.planned(tmp_path, Description(identity=identity, units=units, attributes=attributes))
    with artifact.writing():
        return artifact


def image_counts(seed: int) -> scores.ImageCounts:
    generator = np.random.default_rng(seed)
    true_classes, predicted = np.array([0, 3]), np.array([0, 1, 4])
    classes = np.array([0, 1, 3, 4])
    return scores.ImageCounts(
        true_classes=true_classes,
        predicted_classes=predicted,
        confusion=generator.integers(1, 9, (2, 3)) * 2**40,
        classes=classes,
        **{name: generator.integers(0, 9, 4) for name in scores._CLASS_COUNTS},
    )


def test_scores_of_any_shards_add_up_in_any_order(tmp_path):
    artifact = planned(tmp_path, "scores", ("a", "b"))
    expected = np.zeros((CLASSES, CLASSES), np.int64)
    for seed, unit in enumerate(("a", "b")):
        with artifact.write_unit(unit) as unit_writer:
            writer = scores.ScoreShardWriter(unit_writer, CLASSES)
            counts = image_counts(seed)
            writer.add("ensemble", f"{unit}1", counts, prediction_png=b"png of " + unit.encode())
            writer.add("clip-only", f"{unit}1", image_counts(9))
            writer.add_failed("ensemble", f"{unit}2", "image_unreadable", "no picture")
            writer.add_failed("clip-only", f"{unit}2", "image_unreadable", "no picture")
            assert writer.commit().counts == {"ok": 2, "image_unreadable": 2}
        expected[np.ix_(counts.true_classes, counts.predicted_classes)] += counts.confusion
    tables = [scores.read_scores(artifact, unit, "confusion") for unit in ("a", "b")]
    for order in (tables, tables[::-1]):
        merged = scores.merged_confusions(order, CLASSES)
        assert np.array_equal(merged["ensemble"], expected)
        assert np.array_equal(merged["clip-only"].sum(), 2 * image_counts(9).confusion.sum())
    images = scores.read_scores(artifact, "a", "images").to_pylist()
    assert [(row["variant"], row["key"], row["status"]) for row in images] == [
        ("clip-only", "a1", "ok"),
        ("clip-only", "a2", "image_unreadable"),
        ("ensemble", "a1", "ok"),
        ("ensemble", "a2", "image_unreadable"),
    ]
    confused = [(pair["true_class"], pair["predicted_class"]) for pair in images[2]["confused"]]
    assert sorted(confused) == [(0, 1), (0, 4), (3, 0), (3, 1), (3, 4)]
    pixels = [pair["pixels"] for pair in images[2]["confused"]]
    assert pixels == sorted(pixels, reverse=True)
    assert scores.read_predictions(artifact, "a", [Member(**images[2]["prediction"])]) == [b"png of a"]
    classes = scores.read_scores(artifact, "b", "classes").to_pylist()
    assert [row["class_index"] for row in classes] == [0, 1, 3, 4] * 2
    assert [row["true_px"] for row in classes[4:]] == image_counts(1).true_px.tolist()


def test_scores_refuse_false_failures_unknown_tables_and_lost_tars(tmp_path):
    artifact = planned(tmp_path, "scores", ("a",))
    with artifact.write_unit("a") as unit_writer:
        writer = scores.ScoreShardWriter(unit_writer, CLASSES)
        with pytest.raises(SchemaError, match="slug"):
            writer.add_failed("ensemble", "a", "ok", "")
    with pytest.raises(SchemaError, match="name one of them"):
        scores.read_scores(artifact, "a", "pictures")
    with pytest.raises(CorruptUnitError, match=r"a\.tar: cannot be read .* run 'ovseg evaluate' again"):
        scores.read_predictions(artifact, "a", [Member(0, 1)])


def test_attributes_of_scores_come_back_and_other_artifacts_are_refused(tmp_path):
    attributes = scores.ScoresAttributes(
        dataset="d",
        vocabulary="v",
        class_names=("cat", "<script>"),
        seen=("seen", "unseen"),
        main_variant="ensemble",
        variants={"ensemble": {"ensemble_weight": 0.7}},
    )
    artifact = planned(tmp_path, "scores", ("a",), scores.SCHEMA_VERSION, **attributes.to_json())
    assert scores.ScoresAttributes.of(Artifact.open(artifact.directory)) == attributes
    with pytest.raises(ArtifactError, match="is an artifact of scenes, expected scores"):
        scores.ScoresAttributes.of(planned(tmp_path, "scenes", ("a",)))
    with pytest.raises(SchemaError, match="holds scores of schema 1, expected schema 2"):
        scores.ScoresAttributes.of(planned(tmp_path, "scores", ("a",), 1))


def test_branches_come_back_by_key(tmp_path):
    artifact = planned(tmp_path, "branches", ("a",))
    tensors = {"valid": np.array([True, False]), "clip_logits": np.arange(3, dtype=np.float32)[None]}
    with artifact.write_unit("a") as unit_writer:
        writer = branches.BranchShardWriter(unit_writer)
        writer.add("k1", tensors)
        writer.add_failed("k2", "image_unreadable", "no picture")
        with pytest.raises(SchemaError, match="slug"):
            writer.add_failed("k3", "ok", "")
        assert writer.commit().counts == {"ok": 1, "image_unreadable": 1}
    shard = branches.BranchShard(artifact, "a")
    found = shard.tensors("k1")
    assert found.keys() == tensors.keys()
    assert all(np.array_equal(found[name], tensors[name]) for name in tensors)
    with pytest.raises(CorruptUnitError, match="has no tensors of scene 'k2'"):
        shard.tensors("k2")
    (artifact.directory / "a.tar").unlink()
    with pytest.raises(CorruptUnitError, match="scene 'k1' cannot be read"):
        shard.tensors("k1")


def test_weight_choices_and_reports_come_back(tmp_path):
    choice = planned(tmp_path, "weight_choices", (weight_choices.UNIT,))
    rows = [{"ensemble_weight": 0.5, "pairs": 9, "nouns": 4, "correct": 3}]
    weight_choices.write_weight_choice(choice, rows)
    assert weight_choices.read_weight_choice(choice).to_pylist() == rows
    report = planned(tmp_path, "reports", (reports.UNIT,))
    with pytest.raises(SchemaError, match=r"report\.numbers\.json: cannot be read"):
        reports.read_numbers(report)
    reports.write_report(report, html="<p>", markdown="# a", numbers={"miou": 0.5})
    assert reports.html_path(report).read_text() == "<p>"
    assert reports.read_numbers(report) == {"miou": 0.5}
    assert [file.path.name for file in report_files(report)] == ["report.md", "report.html"]
    sidecar = (report.directory / "report.json").read_bytes()
    reports.write_report(report, html="<p>another day", markdown="# a", numbers={"miou": 0.5})
    assert (report.directory / "report.json").read_bytes() == sidecar  # the page is no part of the unit
    reports.take_back_without_page(report)
    assert not report.status().todo
    reports.html_path(report).unlink()
    reports.take_back_without_page(report)
    assert report.status().todo == (reports.UNIT,)
    (report.directory / "report.numbers.json").write_text("[]")
    with pytest.raises(SchemaError, match="holds a list, a JSON object is expected"):
        reports.read_numbers(report)
