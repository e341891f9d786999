"""The split of COCO-Stuff that docs/guides/train_proposals.md names fits the vocabulary."""

import tomllib

from pipeline.prepare.vocabulary import load_vocabulary
from tests.docs.pages import ROOT, blocks_of


def test_the_held_out_classes_of_coco_stuff_leave_156():
    [block] = [
        block for block in blocks_of(ROOT / "docs" / "guides" / "train_proposals.md") if block.language == "toml"
    ]
    held_out = tomllib.loads(block.text)["proposal_net"]["held_out_classes"]
    names = load_vocabulary("coco-stuff-171").class_names
    assert len(set(names) - set(held_out)) == 156
    assert set(held_out) <= set(names)
