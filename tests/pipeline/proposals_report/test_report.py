"""The report on proposals: its numbers equal a brute-force twin's, and its words follow from them."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from flows.command import main
from pipeline.import_masks.import_masks import import_masks
from pipeline.mine.regions import NetSize
from pipeline.proposals_report.numbers import things_of, verdict
from pipeline.proposals_report.report import report_on
from pipeline.proposals_report.survey import survey
from pipeline.settings import ComputeSettings, MasksSettings, SettingsError, settings_toml
from pipeline.stages import run, run_proposals_reports
from storage_schemas.proposals import read_proposals
from storage_schemas.reports import html_path, read_numbers
from storage_schemas.scenes import ScenesAttributes, SceneShard
from tests.pipeline.evaluate.small_world import scores_on, settings_of, small_net, write_net
from tests.pipeline.import_masks.masks_world import coco_record
from tests.pipeline.planned import artifact_of, prepare_scenes, scenes_of

SIDE = 64


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    settings = settings_of(tmp_path_factory.mktemp("runs"))
    prepare_scenes(settings, ["drawn"])
    return scenes_of(settings, "drawn")


def scene_list(scenes):
    return [scene for unit in scenes.description.units for scene in SceneShard(scenes, unit).scenes()]


@pytest.fixture(scope="module")
def guessed(scenes, tmp_path_factory):
    """Masks of others: regions with noise, halves of them, boxes, in any order of score; none for one scene."""
    place, rng = tmp_path_factory.mktemp("guessed"), np.random.default_rng(3)
    records = []
    for scene in scene_list(scenes)[1:]:
        labels = np.asarray(Image.open(io.BytesIO(scene.label_png)))
        masks = []
        for value in np.unique(labels):
            region = labels == value
            left = region & (np.arange(96) < 48)
            masks += [region & (rng.random((96, 96)) > 0.2 * rng.random()), left, region & ~left]
        masks.append(np.ones((96, 96), bool))
        some = [mask for mask in masks if mask.any()]
        records += [coco_record(scene.key, mask, score=round(float(rng.random()), 2)) for mask in some]
    path = place / "m.json"
    path.write_text(json.dumps(records))
    compute = ComputeSettings(max_failed_share=1.0)
    return import_masks(
        MasksSettings(path=path), scenes.directory, place, size=NetSize(SIDE, SIDE), compute=compute
    ).artifact


def scene_twin(scene, found, things):
    """Regions and masks of a scene as sets of pixels at the net's size; what is shrunk takes the nearest pixel."""
    labels, numbers = (
        np.asarray(Image.open(io.BytesIO(png))).astype(int) for png in (scene.label_png, scene.instances_png)
    )
    numbers = numbers if things else 0 * numbers
    side = SIDE if len(found.queries) else 96
    old = {place: (place[0] * 96 // side, place[1] * 96 // side) for place in np.ndindex(side, side)}
    of_place = {place: (labels[of_old], numbers[of_old]) for place, of_old in old.items()}
    known = {place for place, (c, _) in of_place.items() if c != 255}
    pairs = sorted({(c, n) for c, n in zip(labels.flat, numbers.flat, strict=True) if c != 255})
    truths = [{place for place in known if of_place[place] == pair} for pair in pairs]
    for (c, n), truth in zip(pairs, truths, strict=True):
        if not truth:  # so small that shrinking loses it: its first pixel stays
            row, column = np.argwhere((labels == c) & (numbers == n))[0]
            truth.add((row * side // 96, column * side // 96))
            known |= truth
    masks = []
    for counts in found.mask_counts:
        grid = coco_mask.decode({"size": [side, side], "counts": counts})
        masks.append({place for place in known if grid[place]})
    areas = [int(((labels == c) & (numbers == n)).sum()) for c, n in pairs]
    return pairs, truths, areas, masks, {place: c for place, (c, _) in of_place.items()}, labels, known


def found_by_cocos_rule(ious, order):
    """The limits and thresholds at which each region is found."""
    found = [set() for _ in ious]
    for limit in (10, 100):
        for threshold in np.linspace(0.5, 0.95, 10):
            free = set(range(len(ious)))
            for mask in order[:limit]:
                reaching = [one for one in sorted(free) if ious[one, mask] >= threshold - 1e-10]
                if reaching:
                    match = max(reaching, key=lambda one, mask=mask: (ious[one, mask], one))
                    free.discard(match)
                    found[match].add((limit, round(float(threshold), 2)))
    return found


def oracle_twin(pairs, masks, class_of, labels):
    """Name each pixel of the picture by the masks' votes; a mask votes for the class of most of its pixels."""
    votes: dict[tuple[int, int], dict[int, int]] = {}
    for mask in masks:
        shares = {c: sum(class_of[place] == c for place in mask) for c, _ in pairs}
        name = min(shares, key=lambda c: (-shares[c], c))
        for place in mask if shares[name] else ():
            own = votes.setdefault(place, {})
            own[name] = own.get(name, 0) + 1
    side = SIDE if masks else 96
    named = np.zeros_like(labels)
    for row, column in np.ndindex(labels.shape):
        own = votes.get(
            (row * side // 96, column * side // 96), {0: 1}
        )  # the whole picture is a mask, or there is none
        named[row, column] = min(own, key=lambda name: (-own[name], name))
    return named


def best_fit(truth, masks, ious):
    """A region's best IoU, the share of it that is left out, of the mask outside it, and whether it is in parts."""
    if not masks:
        return 0.0, 1.0, 0.0, False
    best = int(ious.argmax())
    common, iou = len(truth & masks[best]), float(ious[best])
    parts = [mask for mask in masks if len(mask & truth) >= 0.8 * max(1, len(mask))]
    union = set().union(*parts) & truth
    split = len(parts) >= 2 and iou < 0.5 and len(union) >= 0.8 * len(truth)
    return iou, 1 - common / len(truth), 1 - common / len(masks[best]) if common else 1.0, split


def twin(scenes, proposals, things):
    """The report's numbers, by sets of pixels."""
    marks, regions, pixels, with_instances = ScenesAttributes.of(scenes).seen, [], [], set()
    covered = depth = labelled = count = merging = 0
    for unit in scenes.description.units:
        for scene, found in zip(SceneShard(scenes, unit).scenes(), read_proposals(proposals, unit), strict=True):
            pairs, truths, areas, masks, class_of, labels, known = scene_twin(scene, found, things)
            ious = np.array([[len(one & other) / len(one | other) for other in masks] for one in truths])
            order = sorted(range(len(masks)), key=lambda place: -found.objectness[place])
            reached = found_by_cocos_rule(ious, order)
            for number, (pair, truth) in enumerate(zip(pairs, truths, strict=True)):
                fit = best_fit(truth, masks, ious[number])
                regions.append((marks[pair[0]], areas[number], fit[0], fit[1], reached[number], pair[0], *fit[2:]))
            for mask in masks:
                held = {c for (c, _), truth in zip(pairs, truths, strict=True) if len(mask & truth) >= 0.8 * len(truth)}
                merging += len(held) >= 2
            map_, numbered = (np.asarray(Image.open(io.BytesIO(p))) for p in (scene.label_png, scene.instances_png))
            with_instances |= set(map_[(numbered > 0) & (map_ != 255)].tolist())
            covered += len(set().union(*masks))
            depth += sum(map(len, masks))
            labelled += len(known)
            count += len(masks)
            pixels.append((labels[labels != 255], oracle_twin(pairs, masks, class_of, labels)[labels != 255]))
    true, named = (np.concatenate(parts) for parts in zip(*pixels, strict=True))
    classes = sorted({*true.tolist(), *named.tolist()})
    oracle = [((true == c) & (named == c)).sum() / ((true == c) | (named == c)).sum() for c in classes]
    groups = {
        "all": regions,
        "seen": [region for region in regions if region[0] == "seen"],
        "unseen": [region for region in regions if region[0] == "unseen"],
        "things": [region for region in regions if region[5] in with_instances],
        "stuff": [region for region in regions if region[5] not in with_instances],
        "large": [region for region in regions if region[1] > 9216],
        "small": [region for region in regions if region[1] < 1024],
        "medium": [region for region in regions if 1024 <= region[1] <= 9216],
    }
    return {
        "regions": len(regions),
        "uncovered_share": 1 - covered / labelled,
        "masks_per_pixel": depth / labelled,
        "merging_share": merging / max(1, count),
        "proposals_per_picture": count / 5,
        "oracle_miou": float(np.mean(oracle)),
        "groups": {
            name: {
                "ar_10": np.mean([sum(limit == 10 for limit, _ in region[4]) / 10 for region in chosen]),
                "ar_100": np.mean([sum(limit == 100 for limit, _ in region[4]) / 10 for region in chosen]),
                "recall_100": np.mean([(100, 0.5) in region[4] for region in chosen]),
                "best_iou": np.mean([region[2] for region in chosen]),
                "missed": np.mean([region[2] < 0.5 for region in chosen]),
                "missed_share": np.mean([region[3] for region in chosen]),
                "spilled_share": np.mean([region[6] for region in chosen]),
                "split": np.mean([region[7] for region in chosen]),
            }
            for name, chosen in groups.items()
            if chosen
        },
    }


@pytest.mark.parametrize("kind", ["classes", "things"])
def test_the_numbers_equal_a_brute_force_twin(scenes, guessed, tmp_path, kind):
    artifact = report_on(guessed.directory, scenes.directory, tmp_path, regions=kind).artifact
    numbers, expected = read_numbers(artifact), twin(scenes, guessed, kind == "things")
    assert numbers["pictures"] == 5
    assert numbers["groups"].keys() == expected["groups"].keys()
    assert 0 < expected["merging_share"] < 1
    for name, value in expected.items():
        if name == "groups":
            for group, values in value.items():
                for column, mean in values.items():
                    assert numbers["groups"][group][column] == pytest.approx(mean, abs=1e-9), (group, column)
        else:
            assert numbers[name] == pytest.approx(value, abs=1e-9), name
    page = html_path(artifact).read_text()
    assert "data:image/png;base64," in page  # pictures of what was missed
    assert "AR@10" in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    again = report_on(guessed.directory, scenes.directory, tmp_path / "again", regions=kind).artifact
    for path in artifact.directory.glob("report*"):
        assert (again.directory / path.name).read_bytes() == path.read_bytes()


def test_perfect_masks_leave_names_alone(scenes, tmp_path):
    (tmp_path / "m").mkdir()
    for scene in scene_list(scenes):
        (tmp_path / "m" / f"{scene.key}.png").write_bytes(scene.label_png)
    masks = MasksSettings(path=tmp_path / "m", background=(255,))
    compute = ComputeSettings()
    made = import_masks(masks, scenes.directory, tmp_path, size=NetSize(96, 96), compute=compute).artifact
    numbers = read_numbers(report_on(made.directory, scenes.directory, tmp_path).artifact)
    assert numbers["oracle_miou"] == 1.0
    everything = numbers["groups"]["all"]
    assert [everything[name] for name in ("ar_10", "ar_100", "best_iou", "missed", "split")] == [1, 1, 1, 0, 0]
    assert "perfect names these masks reach 100.0 mIoU" in numbers["verdict"][0]


def test_the_nets_proposals_are_set_beside_its_result(tmp_path):
    settings = settings_of(tmp_path, sweep={"ensemble_weights": [0.7], "mask_thresholds": [0.5]})
    prepare_scenes(settings, ["drawn"])
    write_net(artifact_of(settings, "proposal_net"), small_net())
    first = run_proposals_reports(settings)
    assert "What names cost is not known" in read_numbers(first.artifact)["verdict"][0]
    scores = scores_on(run("evaluate", settings, ablate=True), "drawn")
    second = run_proposals_reports(settings)
    numbers = read_numbers(second.artifact)
    assert first.artifact.directory != second.artifact.directory
    assert set(numbers["named"]) == {"result", "true_masks"}
    report = next((tmp_path / "reports").glob("tiny-ablation-*/report.numbers.json"))
    variants = {
        each["name"]: each["metrics"]["miou"] for each in json.loads(report.read_text())["datasets"][0]["variants"]
    }
    assert numbers["named"]["result"] == variants[scores.description.attributes["main_variant"]]
    assert numbers["named"]["true_masks"] == variants["true-masks-original"]
    assert run_proposals_reports(settings).units_done == 0  # all is complete


@pytest.mark.parametrize(
    ("oracle", "result", "words"),
    [
        (0.9, 0.3, "The names hold you back more."),
        (0.4, 0.3, "The masks hold you back more."),
        (0.6, 0.21, "Masks and names cost about as much."),
        (0.6, None, "What names cost is not known"),
    ],
)
def test_the_words_follow_from_the_numbers(oracle, result, words):
    group = {"missed": 0.2, "missed_share": 0.1, "spilled_share": 0.1, "ar_10": 0.3, "ar_100": 0.5, "split": 0.2,
             "best_iou": 0.5}  # fmt: skip
    numbers = {
        "oracle_miou": oracle,
        "named": {} if result is None else {"result": result},
        "groups": {"all": group, "things": group, "stuff": group | {"best_iou": 0.4}},
        "merging_share": 0.5,
        "uncovered_share": 0.3,
    }
    said = verdict(numbers)
    assert words in said[0]
    whole = " ".join(said)
    for expected in ("20.0 points above AR@10", "20.0 % of the regions come in parts", "50.0 % of the masks hold",
                     "30.0 % of the labelled pixels are in no mask", "Weakest are stuff (40.0 %"):  # fmt: skip
        assert expected in whole


def test_things_are_cocos_or_those_with_instances(scenes, guessed):
    found = survey(scenes, guessed, "classes")
    assert things_of(found, "coco-stuff-171") == set(range(80))
    names = ScenesAttributes.of(scenes).class_names
    assert {names[index] for index in things_of(found, "drawn-world")} & {
        "duck",
        "tree",
        "ship",
        "car",
        "chair",
        "bird",
    }
    assert not {names[index] for index in found.things} & {"sky", "grass", "water", "sand", "road"}


def test_the_command_reports_on_both(scenes, guessed, tmp_path, capsys):
    arguments = [str(guessed.directory), "--scenes", str(scenes.directory), "--runs", str(tmp_path)]
    assert main(["proposals-report", *arguments]) == 0
    assert Path(capsys.readouterr().out.strip()).is_file()
    config = tmp_path / "c.toml"
    settings = settings_of(tmp_path / "runs", proposals="imported")
    document = settings.model_dump(mode="json") | {"masks": {"drawn": {"path": str(tmp_path / "none.json")}}}
    config.write_text(settings_toml(type(settings).model_validate(document)))
    assert main(["proposals-report", "--config", str(config)]) != 0
    assert f"masks.drawn.path: there is nothing at {tmp_path}/none.json" in capsys.readouterr().err
    assert main(["proposals-report"]) != 0
    assert "--config alone, or proposals and --scenes" in capsys.readouterr().err


def test_what_cannot_be_reported_on_is_one_message(scenes, guessed, tmp_path):
    with pytest.raises(Exception, match=r"holds no artifact of proposals"):
        report_on(tmp_path, scenes.directory, tmp_path)
    with pytest.raises(Exception, match=r"is an artifact of scenes, expected proposals"):
        report_on(scenes.directory, scenes.directory, tmp_path)
    with pytest.raises(SettingsError, match=r"evaluate.proposals: .* \(got 'ground-truth'\)"):
        run_proposals_reports(settings_of(tmp_path, proposals="ground-truth"))
    nothing = settings_of(tmp_path)
    without = nothing.model_copy(update={"evaluate": nothing.evaluate.model_copy(update={"datasets": ()})})
    with pytest.raises(SettingsError, match=r"evaluate.datasets: at least one data set is expected"):
        run_proposals_reports(without)
