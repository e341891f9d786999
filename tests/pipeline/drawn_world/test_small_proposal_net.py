"""The small proposal net that ships is what its card says, and what the demo's settings can start from."""

from hashlib import sha256
from pathlib import Path

import numpy as np

from pipeline.drawn_world import small_proposal_net
from pipeline.drawn_world.words import NOUNS, UNSEEN_NOUNS
from pipeline.settings import load_settings
from pipeline.train_proposals.training import initial_net
from tools.pretrain_small_proposal_net import figures, kind_of

DEMO = Path(__file__).parents[3] / "flows" / "configs" / "demo.toml"


def test_the_card_is_true_of_its_file() -> None:
    card = (small_proposal_net.WEIGHTS_FILE.parent / "README.md").read_text()
    data = small_proposal_net.WEIGHTS_FILE.read_bytes()
    assert sha256(data).hexdigest() in card
    assert f"{len(data):,} bytes" in card


def test_no_unseen_noun_is_learned() -> None:
    expected = tuple(noun for noun in NOUNS if noun in UNSEEN_NOUNS)
    for path in (DEMO, small_proposal_net.PRETRAINING):
        assert load_settings(path).proposal_net.held_out_classes == expected


def test_the_demo_starts_from_proposals_that_fit() -> None:
    settings = load_settings(DEMO).proposal_net
    net = initial_net(settings, embedding_dim=96, text_width=64).eval()
    found = figures(net, split="test", scenes=40)
    assert found["seen stuff"]["best_iou"] > 0.8
    assert found["seen things"]["best_iou"] > 0.4
    assert found["unseen things"]["best_iou"] > 0.3
    regions = sum(figures_of["regions"] for figures_of in found.values())
    means = [figures_of["best_iou"] * figures_of["regions"] for figures_of in found.values()]
    assert np.sum(means) / regions > 0.5


def test_nouns_have_the_kind_that_the_world_says() -> None:
    kinds = {noun: kind_of(noun) for noun in ("sky", "field", "boat", "ship")}
    assert kinds == {"sky": "seen stuff", "field": "unseen stuff", "boat": "seen things", "ship": "unseen things"}
