"""What a crop costs, against formulas; and that a dry run says it of the CLIP that its settings name."""

import json

import pytest
import torch

from flows.state_table import dry_run_text
from pipeline.clip_loading import clip_without_numbers
from pipeline.dry_run.crop_cost import CropCost, operations_per_second
from pipeline.dry_run.dry_run import dry_run
from pipeline.settings import ClipSettings
from tests.pipeline.dry_run.test_dry_run import all_stages
from tests.tiny_clips import FAMILIES, WITH_TOKENS

CPU = torch.device("cpu")


def test_operations_and_memory_of_vit_b_16_are_those_of_the_formula():
    found = CropCost.of(clip_without_numbers(ClipSettings(architecture="ViT-B-16")), operations_per_second(CPU, "fp32"))
    tokens, width, dim = 197, 768, 512
    layer = 24 * tokens * width**2 + 4 * tokens**2 * width
    last = 4 * tokens * width**2 + 20 * width**2 + 4 * tokens * width  # the class token alone comes out
    rest = 2 * 196 * 768 * width + 2 * width * dim
    assert found.operations == 11 * layer + last + rest
    assert (found.side_px, found.patches, found.parameters) == (224, 14, 86_192_640)
    hidden = 4 * tokens * width * 4  # of the MLP [bytes]; before and after the activation, beside the tokens
    assert 2 * hidden < found.bytes < 4 * hidden
    assert 1e-4 < found.seconds < 1e3


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_has_a_cost(name, tmp_path):
    (tmp_path / "model.json").write_text(json.dumps(FAMILIES[name]))
    clip = clip_without_numbers(ClipSettings(architecture=str(tmp_path / "model.json")))
    found = CropCost.of(clip, operations_per_second(CPU, "fp32"))
    assert (found.patches > 0) == (name in WITH_TOKENS)
    assert found.parameters > 1000
    assert found.operations > 1000
    assert found.bytes > 3 * 32 * 32 * 4  # the crop itself is among them


def test_a_dry_run_says_what_a_crop_costs(tmp_path):
    (tmp_path / "model.json").write_text(json.dumps(FAMILIES["ConvNeXt"]))
    architecture = str(tmp_path / "model.json")
    clip = f"clip={{architecture='{architecture}', pretrained='random'}}"
    found = dry_run(all_stages(tmp_path, clip, "finetune.mode='ft'"), ["mine", "finetune"])
    assert (found.architecture, found.device, found.crop.patches) == (architecture, "cpu", 0)
    (line,) = (line for line in dry_run_text(found).splitlines() if line.startswith("clip: "))
    assert "a crop of 32 px without patch tokens takes" in line
    assert dry_run(all_stages(tmp_path, clip), ["prepare"]).crop is None
    prompted = dry_run(all_stages(tmp_path, clip), ["finetune"]).findings
    (text,) = (finding.text for finding in prompted if finding.where == "finetune.mode")
    assert "'ft-then-mpt' trains mask prompts, which have no meaning in" in text
    assert "ConvNeXt of timm, has no patch tokens; set it to 'ft'" in text


def test_a_machine_multiplies():
    assert operations_per_second(CPU, "fp32") > 1e8
