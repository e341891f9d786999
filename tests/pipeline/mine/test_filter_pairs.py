"""Subsets of pairs: the very rows and bytes, by every rule, and what is refused."""

import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import PipelineError
from pipeline.mine.filter_pairs import PairRule, chosen_rows, filter_pairs
from pipeline.mine.pair_signs import make_signs
from pipeline.stages import run
from storage_schemas.artifact import Artifact
from storage_schemas.errors import ArtifactError
from storage_schemas.manifest import Description, Identity
from storage_schemas.pair_signs import read_pair_signs
from storage_schemas.pairs import read_index, read_members
from tests.pipeline.mine.mining_world import files_of, mining_settings, pair_rows

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
        ({"keep_share": 0.0}, "keep_share is 0.0, a share above 0, up to 1, is expected"),
    ],
)
def test_rules_without_meaning_are_refused(rule, message):
    with pytest.raises(PipelineError, match=message):
        PairRule(**rule)


def signed(rows, signs):
    """Give rows of pairs their signs."""
    return [{**row, **{name: value for name, value in signs[row["pair"]].items() if name not in row}} for row in rows]


def naive_with_signs(rows: list[dict], rule: PairRule) -> list[str]:
    """Judge one row at a time, then order those that are left by trust."""

    def at_least(value, bound):
        return bound is None or value is None or value >= bound

    kept = [
        row
        for row in rows
        if row["status"] == "ok"
        and at_least(row["trust"], rule.min_trust)
        and at_least(row["noun_margin"], rule.min_noun_margin)
        and (rule.max_noun_rank is None or row["noun_rank"] <= rule.max_noun_rank)
        and at_least(row["region_margin"], rule.min_region_margin)
        and at_least(row["rival_margin"], rule.min_rival_margin)
        and at_least(row["captions_naming"], rule.min_captions_naming)
        and not (rule.single_instances and row["more_instances"])
    ]
    if rule.keep_share is not None:
        kept = sorted(kept, key=lambda row: (-row["trust"], row["pair"]))[: round(rule.keep_share * len(kept))]
    return sorted(row["pair"] for row in kept)


_SIGN_RULES = st.builds(
    PairRule,
    min_trust=st.none() | st.floats(-0.3, 0.3),
    min_noun_margin=st.none() | st.floats(-0.2, 0.2),
    max_noun_rank=st.none() | st.integers(0, 3),
    min_region_margin=st.none() | st.floats(0, 0.2),
    min_rival_margin=st.none() | st.floats(-0.1, 0.1),
    min_captions_naming=st.none() | st.integers(0, 3),
    single_instances=st.none() | st.booleans(),
    keep_share=st.none() | st.floats(0.1, 1),
)


@pytest.fixture(scope="module")
def signs(drawn_pairs):
    return make_signs(drawn_pairs).artifact


@given(_SIGN_RULES)
def test_rows_chosen_by_signs_equal_the_naive_twins(drawn_pairs, signs, rule):
    by_name = {row["pair"]: row for unit in signs.description.units for row in read_pair_signs(signs, unit).to_pylist()}
    chosen = chosen_rows(drawn_pairs, rule, signs)
    names = [
        read_index(drawn_pairs, unit, columns=["pair"])["pair"][row].as_py()
        for unit, rows in chosen.items()
        for row in rows
    ]
    assert names == naive_with_signs(signed(pair_rows(drawn_pairs), by_name), rule)


def test_signs_enter_the_identity_only_where_a_rule_uses_them(drawn_pairs, signs, tmp_path):
    plain = filter_pairs(drawn_pairs, PairRule(max_per_noun=2), tmp_path / "plain", signs=signs).artifact
    assert plain.identity.inputs == {"pairs": drawn_pairs.manifest().digest()}
    trusted = filter_pairs(drawn_pairs, PairRule(keep_share=0.5), tmp_path / "trusted", signs=signs).artifact
    assert trusted.identity.inputs == {**plain.identity.inputs, "signs": signs.manifest().digest()}
    again = filter_pairs(plain, PairRule(keep_share=0.5), tmp_path / "again", signs=signs).artifact
    assert len(pair_rows(again)) == round(0.5 * len(pair_rows(plain)))


def test_rules_that_use_signs_need_those_of_these_pairs(drawn_pairs, signs, tmp_path):
    with pytest.raises(PipelineError, match=r"'keep_share': 0.5} asks for signs of trust.*ovseg pairs signs"):
        filter_pairs(drawn_pairs, PairRule(keep_share=0.5), tmp_path / "subset")
    runs = tmp_path / "runs"
    other = run("mine", mining_settings(runs, "mine.source=masks-classes", scenes=2)).artifact
    with pytest.raises(PipelineError, match=r"has no signs of \d+ of \d+ rows of .*give those of these pairs"):
        filter_pairs(drawn_pairs, PairRule(keep_share=0.5), tmp_path / "subset", signs=make_signs(other).artifact)
