"""The picture of a report: a sheet of proposals."""

import numpy as np
import pytest
import torch
from PIL import Image

from ovseg_models.proposal_net import ProposalNet, ProposalOutput
from pipeline.train_proposals.proposal_sheet import proposal_sheet
from storage_schemas.scene_collection import SceneCollection


def share_of(picture: Image.Image, colour: tuple[int, int, int]) -> float:
    return float((np.asarray(picture) == colour).all(axis=2).mean())


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
    assert (columns > 100).sum() == pytest.approx(150 + 75, abs=3)
    assert share_of(sheet, (190, 40, 20)) > 0


def test_texts_lie_nearer_to_their_own_picture_than_to_the_next_one(
    scenes: SceneCollection, monkeypatch: pytest.MonkeyPatch
) -> None:
    sheet = np.asarray(sheet_of(monkeypatch, scenes, Image.new("RGB", (96, 32), (250, 10, 10)), [0, 1]))
    of_the_picture = sheet[52:, 10 : 10 + 150].astype(int)  # below title and heads
    rows = np.flatnonzero((of_the_picture == (250, 10, 10)).all(axis=2).any(axis=1))
    ends = np.flatnonzero(np.diff(rows) > 1)
    assert len(ends) == 1, "two pictures, one below the other"
    written = np.flatnonzero((of_the_picture.sum(axis=2) < 300).any(axis=1))
    between = written[(written > rows[ends[0]]) & (written < rows[ends[0] + 1])]
    assert between.min() - rows[ends[0]] < rows[ends[0] + 1] - between.max()
