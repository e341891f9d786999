"""Subsets of pairs: the very rows and bytes, by every rule, and what is refused."""

import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import PipelineError
from pipeline.mine.filter_pairs import PairRule, chosen_rows, filter_pairs
from storage_schemas.artifact import Artifact
from storage_schemas.errors import ArtifactError
from storage_schemas.manifest import Description, Identity
from storage_schemas.pairs import read_index, read_members
from tests.pipeline.mine.mining_world import files_of, pair_rows

_PLACES = frozenset({"crop", "crop_mask"})


def naive(rows: list[dict], rule: PairRule) -> list[str]:
    """Judge one row at a time."""

    def fulfils(row: dict) -> bool:
        if row["status"] != "ok":
            return False
        share = row["area_px"] / (row["height_px"] * row["width_px"])
        return (
            (rule.min_score is None or row["score"] >= rule.min_score)
            and (rule.max_score is None or row["score"] <= rule.max_score)
            and (rule.min_margin is None or row["margin"] is None or row["margin"] >= rule.min_margin)
            and (rule.min_area_share is None or share >= rule.min_area_share)
            and (rule.max_area_share is None or share <= rule.max_area_share)
            and (not rule.nouns or row["noun"] in rule.nouns)
            and row["noun"] not in rule.without_nouns
        )

    kept = sorted((row for row in rows if fulfils(row)), key=lambda row: (-row["score"], row["pair"]))
    taken: Counter = Counter()
    names = []
    for row in kept:
        taken[row["noun"]] += 1
        if rule.max_per_noun is None or taken[row["noun"]] <= rule.max_per_noun:
            names.append(row["pair"])
    return sorted(names)


_NOUNS = st.lists(st.sampled_from(["grass", "sky", "road", "tree", "photo", "nothing"]), max_size=3).map(tuple)
_RULES = st.builds(
    PairRule,
    min_score=st.none() | st.floats(0.3, 0.7),
    max_score=st.none() | st.floats(0.3, 0.8),
    min_margin=st.none() | st.floats(0, 0.3),
    min_area_share=st.none() | st.floats(0, 0.4),
    max_area_share=st.none() | st.floats(0, 0.6),
    nouns=_NOUNS,
    without_nouns=_NOUNS,
    max_per_noun=st.none() | st.integers(1, 3),
)


@given(_RULES)
def test_chosen_rows_equal_the_naive_twins(drawn_pairs, rule):
    chosen = chosen_rows(drawn_pairs, rule)
    names = [
        read_index(drawn_pairs, unit, columns=["pair"])["pair"][row].as_py()
        for unit, rows in chosen.items()
        for row in rows
    ]
    assert names == naive(pair_rows(drawn_pairs), rule)


def test_a_subset_has_the_very_rows_and_pictures(drawn_pairs, tmp_path):
    rule = PairRule(max_per_noun=1)
    report = filter_pairs(drawn_pairs, rule, tmp_path / "subset")
    subset = Artifact.open(tmp_path / "subset")
    assert subset.status(deep=True).finished
    whole = {row["pair"]: row for row in pair_rows(drawn_pairs)}
    rows = pair_rows(subset)
    assert [row["pair"] for row in rows] == naive(list(whole.values()), rule)
    assert report.manifest.counts == {"ok": len(rows)}
    for row in rows:
        assert {name: value for name, value in row.items() if name not in _PLACES} == {
            name: value for name, value in whole[row["pair"]].items() if name not in _PLACES
        }
    pictures = {}
    for artifact in (drawn_pairs, subset):
        for unit in artifact.description.units:
            index = read_index(artifact, unit)
            members = read_members(artifact, unit, index, range(index.num_rows))
            for name, of_pair in zip(index["pair"].to_pylist(), members, strict=True):
                pictures.setdefault(name, of_pair)
                assert pictures[name] == of_pair
    assert (tmp_path / "subset" / "card" / "contact_sheet.png").is_file()
    assert '"max_per_noun": 1' in (tmp_path / "subset" / "README.md").read_text()


def test_the_same_subset_twice_is_no_work_and_elsewhere_the_same_bytes(drawn_pairs, tmp_path):
    rule = PairRule(nouns=("sky", "grass", "sky"))
    assert filter_pairs(drawn_pairs, rule, tmp_path / "one").units_done > 0
    assert filter_pairs(drawn_pairs, PairRule(nouns=("grass", "sky")), tmp_path / "one").units_done == 0
    filter_pairs(drawn_pairs, rule, tmp_path / "two")
    assert files_of(tmp_path / "one") == files_of(tmp_path / "two")


def test_a_subset_of_a_subset(drawn_pairs, tmp_path):
    filter_pairs(drawn_pairs, PairRule(max_per_noun=2), tmp_path / "two")
    filter_pairs(Artifact.open(tmp_path / "two"), PairRule(max_per_noun=1), tmp_path / "one")
    filter_pairs(drawn_pairs, PairRule(max_per_noun=1), tmp_path / "direct")
    assert pair_rows(Artifact.open(tmp_path / "one")) == pair_rows(Artifact.open(tmp_path / "direct"))


def test_nouns_that_are_in_no_pair_are_reported(drawn_pairs, tmp_path, caplog):
    filter_pairs(drawn_pairs, PairRule(nouns=("sky", "zebra")), tmp_path / "subset")
    assert "1 of 2 nouns are in no pair: ['zebra']" in caplog.text


def test_no_pair_left_is_an_error_and_leaves_nothing(drawn_pairs, tmp_path):
    with pytest.raises(PipelineError, match=r"none of \d+ rows fulfils {'min_score': 2.0}; ask for less"):
        filter_pairs(drawn_pairs, PairRule(min_score=2.0), tmp_path / "subset")
    assert not (tmp_path / "subset").exists()


@pytest.mark.parametrize("what", ["file", "other", "subset"])
def test_what_is_there_already_is_left_alone(drawn_pairs, tmp_path, what):
    target = tmp_path / "subset"
    if what == "file":
        target.write_text("mine")
    elif what == "other":
        target.mkdir()
        (target / "notes.txt").write_text("mine")
    else:
        filter_pairs(drawn_pairs, PairRule(max_per_noun=1), target)
    before = files_of(tmp_path)
    with pytest.raises(PipelineError, match="holds something else than this subset; choose another directory"):
        filter_pairs(drawn_pairs, PairRule(max_per_noun=2), target)
    assert files_of(tmp_path) == before


def test_other_artifacts_are_refused(tmp_path):
    identity = Identity(kind="scenes", name="a", schema_version=1, producer_version=1, settings={})
    other = Artifact.planned(tmp_path, Description(identity=identity, units=()))
    with pytest.raises(ArtifactError, match="is an artifact of scenes, expected pairs"):
        filter_pairs(other, PairRule(max_per_noun=1), tmp_path / "subset")


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"min_score": math.nan}, "min_score is nan, a finite number is expected"),
        ({"max_area_share": math.inf}, "max_area_share is inf, a finite number is expected"),
        ({"max_per_noun": 0}, "max_per_noun is 0, at least 1 is expected"),
    ],
)
def test_rules_without_meaning_are_refused(rule, message):
    with pytest.raises(PipelineError, match=message):
        PairRule(**rule)
