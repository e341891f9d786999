"""An audit: what is shown of pairs, what is kept of verdicts, and that a kill loses none."""

import io
import json
import time

import numpy as np
import pytest
from PIL import Image

from pipeline.audit.audit import Audit
from pipeline.errors import PipelineError
from pipeline.mine.card import make_card
from pipeline.mine.filter_pairs import PairRule, filter_pairs
from pipeline.scenes_of_pairs import scenes_of
from storage_schemas.artifact import Artifact
from storage_schemas.cards import card_facts
from storage_schemas.errors import ArtifactError, HeldError, SchemaError
from storage_schemas.verdicts import FILE, NAMES, read_verdicts
from tests import forked
from tests.pipeline.finetune.made_pairs import made_pairs
from tests.pipeline.mine.mining_world import pair_rows


@pytest.fixture
def pairs(tmp_path):
    return made_pairs(tmp_path, 8)


def decoded(png: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(png)) as image:
        return np.array(image)


def test_each_pair_of_the_sample_is_shown_once_and_verdicts_are_kept_in_order(pairs):
    audit = Audit(pairs, count=12, seed=4)
    given = []
    for number in range(12):
        pair = audit.next_pair()
        audit.judge(pair, NAMES[number % 4])
        given.append((pair, NAMES[number % 4]))
        assert [(each.pair, each.verdict) for each in read_verdicts(pairs)] == given
    assert audit.next_pair() is None
    assert len({pair for pair, _ in given}) == 12
    assert (audit.judged, audit.expected) == (12, 12)
    assert pairs.status(deep=True).finished
    assert pairs.status().foreign_files == ()


def test_an_audit_goes_on_where_it_ended_and_a_larger_one_keeps_its_verdicts(pairs):
    first = Audit(pairs, count=6)
    for _ in range(4):
        first.judge(first.next_pair(), "right")
    again = Audit(pairs, count=6)
    assert again.next_pair() == first.next_pair()
    assert again.judged == 4
    larger = Audit(pairs, count=20)
    assert larger.judged == 4
    assert larger.next_pair() not in {verdict.pair for verdict in read_verdicts(pairs)}


def test_the_last_verdict_can_be_taken_back_and_another_one_be_given(pairs):
    audit = Audit(pairs, count=6)
    assert audit.undo() is None
    first = audit.next_pair()
    audit.judge(first, "right")
    second = audit.next_pair()
    audit.judge(second, "wrong noun")
    assert audit.undo() == second == audit.next_pair()
    assert [verdict.pair for verdict in read_verdicts(pairs)] == [first]
    audit.judge(first, "names nothing")
    assert [verdict.verdict for verdict in read_verdicts(pairs)] == ["names nothing"]


def test_skipped_pairs_are_replaced_until_the_count_is_reached(pairs):
    audit = Audit(pairs, count=5)
    audit.judge(audit.next_pair(), "skip")
    while (pair := audit.next_pair()) is not None:
        audit.judge(pair, "right")
    assert audit.judged == 5
    assert len(read_verdicts(pairs)) == 6
    assert audit.findings().skipped == 1


def test_another_seed_other_pairs_and_foreign_words_are_refused(pairs, tmp_path):
    audit = Audit(pairs, count=5, seed=1)
    audit.judge(audit.next_pair(), "right")
    with pytest.raises(PipelineError, match=r"--seed 1, found --seed 2.*give that seed"):
        Audit(pairs, count=5, seed=2)
    with pytest.raises(PipelineError, match="found 'perhaps'"):
        audit.judge(audit.next_pair(), "perhaps")
    with pytest.raises(PipelineError, match="'no-such-pair'"):
        audit.judge("no-such-pair", "right")
    with pytest.raises(PipelineError, match="'no-such-pair'"):
        audit.crop("no-such-pair")
    others = made_pairs(tmp_path / "others", 6)
    (others.directory / "audit").mkdir()
    (others.directory / FILE).write_bytes((pairs.directory / FILE).read_bytes())
    with pytest.raises(ArtifactError, match=r"verdicts\.parquet: is on pairs of manifest .* move it away"):
        Audit(others, count=5)
    (others.directory / FILE).write_bytes(b"damaged")
    with pytest.raises(SchemaError, match=r"verdicts\.parquet"):
        Audit(others, count=5)


def test_one_person_at_a_time(pairs):
    with Audit(pairs, count=5).opened(), pytest.raises(HeldError, match="held by"), Audit(pairs, count=5).opened():
        pass


def judge_on(directory, started):
    """Judge pairs until killed, and note each verdict once it was given."""
    pairs = Artifact.open(directory)
    audit = Audit(pairs, count=10_000)
    with audit.opened(), started.open("a") as notes:
        while (pair := audit.next_pair()) is not None:
            audit.judge(pair, "right")
            notes.write(f"{pair}\n")
            notes.flush()


def test_a_kill_at_any_moment_loses_no_verdict(tmp_path):
    pairs, notes = made_pairs(tmp_path, 30), tmp_path / "notes"
    for verdicts in (5, 20, 45):
        process = forked.start(judge_on, pairs.directory, notes)
        deadline_s = time.monotonic() + 300
        while not notes.exists() or len(notes.read_text().splitlines()) < verdicts:
            assert time.monotonic() < deadline_s
            time.sleep(0.001)
        forked.kill([process])
        noted, kept = notes.read_text().splitlines(), [verdict.pair for verdict in read_verdicts(pairs)]
        assert len(noted) >= verdicts
        assert kept[: len(noted)] == noted[: len(kept)]
        assert len(noted) <= len(kept) <= len(noted) + 1  # one may be on the disk and not noted yet
        notes.write_text("".join(f"{pair}\n" for pair in kept))
    whole = Audit(pairs, count=10_000)
    while (pair := whole.next_pair()) is not None:
        whole.judge(pair, "right")
    kept = [verdict.pair for verdict in read_verdicts(pairs)]
    assert sorted(kept) == sorted(row["pair"] for row in pair_rows(pairs) if row["status"] == "ok")


def test_pictures_show_the_scene_dimmed_outside_the_mask(drawn_pairs, tmp_path):
    audit = Audit(drawn_pairs, scenes_of(drawn_pairs, None), count=3)
    pair = audit.next_pair()
    (row,) = [row for row in pair_rows(drawn_pairs) if row["pair"] == pair]
    picture, crop = decoded(audit.picture(pair)), decoded(audit.crop(pair))
    assert picture.shape == (row["height_px"], row["width_px"], 3)
    left, top, right, bottom = row["box_xyxy"]
    assert crop.shape == (bottom - top, right - left, 3)
    inside = np.abs(crop.astype(int) - picture[top:bottom, left:right]).max(axis=2) <= 2
    assert inside.sum() >= row["area_px"] * 0.95
    assert (picture == (255, 64, 160)).all(axis=2).any() or row["area_px"] == row["height_px"] * row["width_px"]
    without = decoded(Audit(drawn_pairs, count=3).picture(pair))
    assert without.shape == picture.shape
    shown = audit.shown(pair)
    assert "".join(shown["caption"]) == row["caption"]
    assert shown["caption"][1] == row["noun_text"]
    json.dumps(shown)


def test_scenes_of_a_subset_are_found_and_missing_ones_are_named(drawn_pairs, tmp_path):
    runs = drawn_pairs.directory.parent.parent
    subset = filter_pairs(drawn_pairs, PairRule(max_per_noun=1), runs / "pairs" / "subset-0").artifact
    assert scenes_of(subset, None).directory == scenes_of(drawn_pairs, None).directory
    away = Artifact.open(subset.directory.rename(tmp_path / "subset-0"))
    with pytest.raises(PipelineError, match="--scenes"):
        scenes_of(away, None)


def test_the_card_shows_what_was_found_and_is_made_anew_with_each_verdict(pairs):
    make_card(pairs)
    before = (pairs.directory / "README.md").read_text()
    assert "Nobody has checked the pairs by hand." in before
    manifest = pairs.manifest().digest()
    audit = Audit(pairs, count=8)
    for number in range(8):
        audit.judge(audit.next_pair(), "right" if number % 4 else "wrong mask")
    assert make_card(pairs)
    found, text = audit.findings(), (pairs.directory / "README.md").read_text()
    assert "Nobody has checked the pairs by hand." not in text
    low, high = f"{found.precision.low:.1%}", f"{found.precision.high:.1%}"
    assert f"| all | {found.precision.share:.1%} | {low} to {high} | 8 of {found.precision.pairs} |" in text
    assert card_facts(pairs)["audit"]["precision"]["judged"] == 8
    assert not make_card(pairs)
    audit.undo()
    assert make_card(pairs)
    (pairs.directory / FILE).unlink()
    assert make_card(pairs)
    assert (pairs.directory / "README.md").read_text() == before
    assert pairs.manifest().digest() == manifest
