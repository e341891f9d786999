"""PAS-21: background has words of its own, and what any of them names is background."""

import numpy as np
import pytest

from pipeline.evaluate.stored_scores import Scores
from pipeline.settings import Settings, SettingsError
from pipeline.shard_runner import Execution
from tests.pipeline.evaluate.small_world import folder_settings, make_folder, scores_of, settings_of

CLASSES = ["background", "duck", "boat"]


def settings_with(runs, words, *, classes=CLASSES, **evaluate) -> Settings:
    """Settings of an evaluation on the same pictures and labels 0 to 2, whatever the classes are called."""
    root = runs.parent / f"data-{len(classes)}-{classes[0]}"
    if not root.exists():
        make_folder(root, CLASSES)
        (root / "classes.txt").write_text("".join(f"{name}\n" for name in classes))
    document = settings_of(runs, datasets={"mine": folder_settings(root)}, **evaluate).model_dump(mode="json")
    document["evaluate"]["datasets"][0]["background_names"] = words
    return Settings.model_validate(document)


def confusion_of(settings):
    node = scores_of(settings)
    scores = Scores(node.make(Execution()).artifact)
    return scores.confusion(scores.attributes.main_variant)


def test_words_for_the_background_are_counted_as_one_class(tmp_path):
    words, five = ["sky", "grass", "sea"], ["sky", "duck", "boat", "grass", "sea"]
    separate = confusion_of(settings_with(tmp_path / "five", [], classes=five, ensemble_weight=1.0))
    together = confusion_of(settings_with(tmp_path / "three", words, ensemble_weight=1.0))
    expected = np.stack([separate[:3, [0, 3, 4]].sum(axis=1), separate[:3, 1], separate[:3, 2]], axis=1)
    np.testing.assert_array_equal(together, expected)
    assert np.count_nonzero(separate.sum(axis=0)[[0, 3, 4]]) > 1, "else there is nothing to count together"


def test_one_word_is_that_word_in_place_of_background(tmp_path):
    plain = confusion_of(settings_with(tmp_path / "plain", []))
    np.testing.assert_array_equal(confusion_of(settings_with(tmp_path / "one", ["background"])), plain)


def test_stored_proposals_predict_the_same(tmp_path):
    live = confusion_of(settings_with(tmp_path / "runs", ["sky", "sea"]))
    stored = confusion_of(settings_with(tmp_path / "runs", ["sky", "sea"], share_proposals=True))
    np.testing.assert_array_equal(live, stored)


@pytest.mark.parametrize(
    ("classes", "words", "message"),
    [
        (("sky", "duck", "boat"), ["sea"], "has no class 'background'"),
        (CLASSES, ["sea", "duck"], "'duck' is a class"),
        (CLASSES, ["sea", "sea"], "'sea' is a class, or there twice"),
    ],
)
def test_words_that_cannot_be_background_are_refused(tmp_path, classes, words, message):
    node = scores_of(settings_with(tmp_path / "runs", words, classes=classes))
    with pytest.raises(SettingsError, match=message):
        node.step.check(node)
