"""Signs of trust: each against its plain definition, from what is stored, and what is refused."""

import pickle
import shutil

import numpy as np
import pytest
from scipy import ndimage

from pipeline.errors import PipelineError
from pipeline.mine.filter_pairs import PairRule, filter_pairs
from pipeline.mine.negatives import make_negatives
from pipeline.mine.noun_numbers import is_plural_or_counted
from pipeline.mine.nouns import NounExtractor
from pipeline.mine.pair_origins import origins_of
from pipeline.mine.pair_signs import NEAR, SignsJob, make_signs, noun_standing
from pipeline.pair_files.export_pairs import export_pairs
from pipeline.pair_files.import_pairs import import_pairs
from pipeline.stages import run
from storage_schemas.artifact import Artifact
from storage_schemas.embeddings import read_embeddings
from storage_schemas.pair_signs import read_pair_signs
from storage_schemas.proposals import read_proposals
from storage_schemas.rle import decode_masks
from storage_schemas.scenes import SceneShard
from tests.pipeline.mine.mining_world import files_of, mining_settings, pair_rows, with_net


@pytest.fixture(scope="module")
def mined(tmp_path_factory):
    """Pairs of overlapping masks from a net of random weights."""
    return run("mine", with_net(mining_settings(tmp_path_factory.mktemp("signs"), scenes=8))).artifact


@pytest.fixture(scope="module")
def signs(mined):
    return make_signs(mined).artifact


def signs_of(artifact):
    return [row for unit in artifact.description.units for row in read_pair_signs(artifact, unit).to_pylist()]


def unit_vectors(rng, count, dim=8):
    vectors = rng.normal(size=(count, dim))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.mark.parametrize("seed", range(5))
def test_standing_equals_a_loop_over_masks_and_nouns(seed):
    rng = np.random.default_rng(seed)
    texts = unit_vectors(rng, 40).astype(np.float32)
    texts[7] = texts[3]  # two words that CLIP does not know have one embedding
    texts[20:30] = texts[3] + 1e-6 * rng.normal(size=(10, 8))  # nearer than single precision can tell
    images = unit_vectors(rng, 50).astype(np.float16)
    images[:9] = texts[3]
    own = rng.integers(40, size=50)
    own[:9] = [3, 7, 20, 21, 22, 23, 24, 3, 3]
    left_out = [rng.integers(40, size=rng.integers(5)) for _ in range(50)]
    left_out[9] = np.arange(40)
    standing = noun_standing(images, own, texts, left_out)
    for row in range(50):
        exact = texts.astype(np.float64) @ images[row].astype(np.float32).astype(np.float64)
        others = [noun for noun in range(40) if noun != own[row] and noun not in left_out[row]]
        score = np.einsum("d,d->", texts[own[row]].astype(np.float64), images[row].astype(np.float64))
        if not others:
            assert (standing.rank[row], standing.nearest[row]) == (0, -1)
            assert np.isnan(standing.margin[row])
            continue
        assert standing.rank[row] == sum(exact[noun] > score + 1e-13 for noun in others)
        assert standing.margin[row] == pytest.approx(score - max(exact[others]), abs=1e-12)
        assert exact[standing.nearest[row]] == pytest.approx(max(exact[others]), abs=1e-12)


def alike(masks, place, elsewhere, scores):
    """Count the masks that are as near as the one at a place, the nearest first, of which none overlaps another."""
    kept = [place]
    for number in sorted(elsewhere, key=lambda number: -scores[number]):
        smaller = [(masks[number] & masks[mask]).sum() / min(masks[number].sum(), masks[mask].sum()) for mask in kept]
        if scores[number] >= scores[place] - NEAR and max(smaller) < 0.1:
            kept.append(number)
    return len(kept) - 1


def test_signs_equal_their_plain_definitions(mined, signs):
    origins = origins_of(mined, mined.directory.parents[1])
    nouns = sorted(origins.vectors)
    rows = iter(signs_of(signs))
    extractor = NounExtractor(stop_words=origins.caption_nouns._extractor._stop_words)
    for unit in mined.description.units:
        pairs = [row for row in pair_rows(mined) if row["pair"].startswith(f"{int(unit[-5:]):05d}")]
        embeddings = {found.key: found for found in read_embeddings(origins.embeddings, unit)}
        proposals = {found.key: found for found in read_proposals(origins.proposals, unit)}
        captions = {scene.key: scene.captions for scene in SceneShard(origins.scenes, unit).scenes(labels=False)}
        for pair in pairs:
            found = next(rows)
            assert (found["pair"], found["key"], found["noun"], found["status"]) == (
                *(pair["pair"], pair["key"], pair["noun"], pair["status"]),
            )
            if pair["status"] != "ok":
                continue
            scene, counts = embeddings[pair["key"]], proposals[pair["key"]].mask_counts
            masks = decode_masks(counts, pair["height_px"], pair["width_px"])
            images = scene.embeddings.astype(np.float64)
            place = scene.regions.tolist().index(pair["region"])
            scores = images @ origins.vectors[pair["noun"]]
            named = [{noun.lemma for noun in extractor.extract(caption.text)} for caption in captions[pair["key"]]]
            assert (found["captions"], found["captions_naming"]) == (
                len(named),
                sum(pair["noun"] in of_caption for of_caption in named),
            )
            others = {
                noun: float(images[place] @ origins.vectors[noun]) for noun in nouns if noun not in set().union(*named)
            }
            nearest = max(others, key=lambda noun: others[noun])
            assert found["noun_margin"] == pytest.approx(scores[place] - others[nearest], abs=1e-6)
            assert found["nearest_noun"] == nearest
            assert found["noun_rank"] == sum(score > scores[place] for score in others.values())
            overlap = [(masks[place] & mask).sum() / (masks[place] | mask).sum() for mask in masks]
            elsewhere = [number for number, share in enumerate(overlap) if share < 0.5]
            margin = scores[place] - max(scores[elsewhere]) if elsewhere else None
            assert found["region_margin"] == (margin if margin is None else pytest.approx(margin, abs=1e-6))
            assert found["trust"] == pytest.approx(found["noun_margin"] + (margin or 0), abs=1e-5)
            claims = [
                other
                for other in pairs
                if (other["key"], other["status"]) == (pair["key"], "ok")
                and other["noun"] != pair["noun"]
                and overlap[scene.regions.tolist().index(other["region"])] >= 0.5
            ]
            rival = max(claims, key=lambda other: other["score"], default=None)
            assert found["rival_noun"] == (rival and rival["noun"])
            if rival:
                assert found["rival_margin"] == pytest.approx(pair["score"] - rival["score"], abs=1e-6)
            assert found["alike_regions"] == alike(masks, place, elsewhere, scores)
            numbered, parts = ndimage.label(masks[place], np.ones((3, 3)))
            areas = [(numbered == number).sum() for number in range(1, parts + 1)]
            assert found["parts"] == sum(area >= 0.2 * max(areas) for area in areas)
            assert found["plural"] is False  # captions of the drawn world have no plural
            assert found["more_instances"] == (found["alike_regions"] > 0 or found["parts"] > 1)
            assert found["area_share"] == pytest.approx(masks[place].mean(), rel=1e-6)
    assert next(rows, None) is None


def test_masks_of_labels_have_signs_too(drawn_pairs, tmp_path):
    runs = tmp_path / "runs"
    shutil.copytree(drawn_pairs.directory.parents[1], runs)
    pairs = Artifact.open(runs / "pairs" / drawn_pairs.directory.name)
    found = {row["pair"]: row for row in signs_of(make_signs(pairs).artifact)}
    rows = pair_rows(pairs)
    for row in rows:
        assert found[row["pair"]]["region_margin"] == pytest.approx(row["margin"], abs=1e-6)  # classes never overlap
        mask = row["key"], row["region"]
        claims = [other for other in rows if (other["key"], other["region"]) == mask and other["noun"] != row["noun"]]
        rival = max(claims, key=lambda other: other["score"], default={"noun": None})
        assert found[row["pair"]]["rival_noun"] == rival["noun"]


def test_signs_are_made_once_and_change_no_byte_of_the_pairs(mined, signs, tmp_path):
    before = files_of(mined.directory)
    again = make_signs(mined)
    assert (again.artifact.directory, again.units_done) == (signs.directory, 0)
    assert files_of(mined.directory) == before
    assert signs.identity.inputs == {"pairs": mined.manifest().digest()}
    assert pickle.loads(pickle.dumps(SignsJob(origins_of(mined, mined.directory.parents[1])))).description() == (
        signs.description
    )


def test_a_job_that_went_to_a_worker_makes_the_same_bytes(mined, signs, tmp_path):
    sent = pickle.dumps(SignsJob(origins_of(mined, mined.directory.parents[1])))
    again = Artifact.planned(tmp_path, signs.description)
    with again.writing():
        for unit in reversed(signs.description.units):  # each by a worker of its own
            job = pickle.loads(sent)
            job.run(job.open(), again, unit)
            name = f"{unit}.parquet"
            assert (again.directory / name).read_bytes() == (signs.directory / name).read_bytes()


def test_no_file_holds_a_path(mined, signs):
    made = [mined, signs, make_negatives(mined).artifact]
    for data in (data for artifact in made for data in files_of(artifact.directory).values()):
        assert str(mined.directory.parents[1]).encode() not in data
        assert b"/tmp/" not in data


def test_the_card_shows_precision_against_yield_where_labels_judge(signs):
    text = (signs.directory / "README.md").read_text()
    assert "## Precision against yield" in text
    assert (signs.directory / "card" / "precision_against_yield.png").read_bytes().startswith(b"\x89PNG")


def test_a_subset_has_the_signs_of_the_pairs_that_it_was_chosen_from(mined, signs, tmp_path):
    filter_pairs(mined, PairRule(max_per_noun=1), tmp_path / "subset")
    subset = Artifact.open(tmp_path / "subset")
    assert make_signs(subset, mined.directory.parents[1]).artifact.directory == signs.directory
    with pytest.raises(PipelineError, match=r"pairs [0-9a-f]{12} that it was chosen from are not below .*--runs"):
        make_signs(subset)


@pytest.mark.parametrize(
    ("lost", "message"),
    [
        ("embeddings", r"its embeddings \([0-9a-f]{12}\) are not below .*--runs"),
        ("text_embeddings", r"\d+ of its \d+ nouns have no text embedding below .*ovseg mine"),
    ],
)
def test_what_pairs_were_mined_from_has_to_be_there(mined, tmp_path, lost, message):
    shutil.copytree(mined.directory.parents[1], tmp_path / "runs")
    shutil.rmtree(tmp_path / "runs" / lost)
    with pytest.raises(PipelineError, match=message):
        make_signs(Artifact.open(tmp_path / "runs" / "pairs" / mined.directory.name))


def test_imported_pairs_are_refused(drawn_pairs, tmp_path):
    export_pairs(drawn_pairs, "coco", tmp_path / "coco")
    file = tmp_path / "coco" / "annotations" / "instances_pairs.json"
    imported = import_pairs(file, tmp_path / "coco" / "images", tmp_path / "runs" / "pairs" / "again").artifact
    with pytest.raises(PipelineError, match=r"again: names no embeddings .* give mined pairs"):
        make_signs(imported)


@pytest.mark.parametrize(
    ("caption", "noun", "expected"),
    [
        ("two dogs near a cat", "dogs", True),
        ("two dogs near a cat", "cat", False),
        ("a herd of sheep on the grass", "sheep", True),
        ("a herd of sheep on the grass", "grass", False),
        ("a bunch of plates of food", "plates", True),
        ("a bunch of plates of food", "food", False),
        ("a pile of red fruit", "fruit", True),
        ("a man with glasses", "glasses", False),
        ("a pair of glasses", "glasses", False),
        ("three glasses", "glasses", True),
        ("3 bus stops", "bus", True),
        ("1 bus", "bus", False),
        ("a bus", "bus", False),
        ("people in a park", "people", True),
        ("several very old, red sheep", "sheep", False),
        ("both cats", "cats", True),
    ],
)
def test_plurals_and_numerals(caption, noun, expected):
    assert is_plural_or_counted(caption, caption.index(noun), noun) is expected


def test_where_a_tagger_gave_the_singular_it_says_what_is_a_plural():
    assert is_plural_or_counted("at christmas", 3, "christmas", "christmas") is False
    assert is_plural_or_counted("Sports balls", 0, "Sports balls", "sports ball") is True
