"""The pictures of a report: curves, and a sheet of proposals."""

import numpy as np
import pytest
import torch
from PIL import Image

from ovseg_models.proposal_net import ProposalNet, ProposalOutput
from pipeline.train_proposals.proposal_sheet import proposal_sheet
from pipeline.training.curves import Panel, curves_picture
from storage_schemas.scene_collection import SceneCollection


def share_of(picture: Image.Image, colour: tuple[int, int, int]) -> float:
    return float((np.asarray(picture) == colour).all(axis=2).mean())


def test_panels_lie_below_each_other_with_their_curves() -> None:
    falling = [(float(step), 5.0 / step) for step in range(1, 200)]
    one = curves_picture([Panel("loss", {"loss": falling}, noisy=True)])
    two = curves_picture([Panel("loss", {"loss": falling}, noisy=True), Panel("figures", {"miou": [(200.0, 0.5)]})])
    assert two.size == (one.width, 2 * one.height)
    assert two.crop((0, 0, *one.size)).tobytes() == one.tobytes()
    assert share_of(one, (31, 119, 180)) > 0.001


@pytest.mark.parametrize("points", [[], [(1.0, 0.0)], [(1.0, 0.0), (2.0, 0.0)]])
def test_curves_of_nothing_and_of_zeros_can_be_drawn(points: list[tuple[float, float]]) -> None:
    picture = curves_picture([Panel("nothing", {"loss": points}, noisy=True)])
    assert len(picture.getcolors(10**5)) > 2


class Halves(ProposalNet):
    """A net whose two proposals are the left half of the picture, and nothing."""

    def __init__(self) -> None:
        torch.nn.Module.__init__(self)

    def preprocess(self, images: list[torch.Tensor]) -> torch.Tensor:
        return torch.stack(images).float()

    def forward(self, images: torch.Tensor) -> ProposalOutput:
        height, width = images.shape[-2] // 4, images.shape[-1] // 4
        left = torch.where(torch.arange(width) < width / 2, 9.0, -9.0).expand(1, 1, height, width)
        return ProposalOutput(torch.cat([torch.full_like(left, -9.0), left], dim=1), torch.zeros(1, 2, 4))


def sheet_of(
    monkeypatch: pytest.MonkeyPatch, scenes: SceneCollection, picture: Image.Image, numbers: list[int]
) -> Image.Image:
    """Draw a sheet on which each scene is the picture, its left half of class 3 and its right half of class 7."""
    left = np.arange(picture.width) < picture.width / 2
    labelled = (picture, np.where(left, 3, 7)[None].repeat(picture.height, axis=0))
    monkeypatch.setattr("pipeline.train_proposals.proposal_sheet.read_labelled", lambda *_: labelled)
    return proposal_sheet(
        Halves(),
        scenes,
        numbers,
        class_names=[f"class {index}" for index in range(54)],
        held_out=[7],
        ignore_label=255,
        short_side_px=picture.height,
        max_side_px=picture.width,
    )


def test_the_sheet_shows_the_proposal_that_fits_best(scenes: SceneCollection, monkeypatch: pytest.MonkeyPatch) -> None:
    sheet = sheet_of(monkeypatch, scenes, Image.new("RGB", (64, 64), (250, 10, 10)), [0])
    columns = (np.asarray(sheet) == (250, 10, 10)).all(axis=2).sum(axis=0)
    # the whole picture, and the left half of it for the region that it fits; the other has none
    assert (columns > 100).sum() == 150 + 75
    assert share_of(sheet, (190, 40, 20)) > 0


def test_texts_lie_nearer_to_their_own_picture_than_to_the_next_one(
    scenes: SceneCollection, monkeypatch: pytest.MonkeyPatch
) -> None:
    sheet = np.asarray(sheet_of(monkeypatch, scenes, Image.new("RGB", (96, 32), (250, 10, 10)), [0, 1]))
    of_the_picture = sheet[25:, 8 : 8 + 150].astype(int)  # the line on top is 25 pixels high
    rows = np.flatnonzero((of_the_picture == (250, 10, 10)).all(axis=2).any(axis=1))
    ends = np.flatnonzero(np.diff(rows) > 1)
    assert len(ends) == 1, "two pictures, one below the other"
    written = np.flatnonzero((of_the_picture.sum(axis=2) < 300).any(axis=1))
    between = written[(written > rows[ends[0]]) & (written < rows[ends[0] + 1])]
    assert between.min() - rows[ends[0]] < rows[ends[0] + 1] - between.max()
