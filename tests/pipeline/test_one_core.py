"""What is measured is what ships: stages run the nets through the functions that the segmenter is composed of."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OF_THE_CORE = {
    *("preprocess", "encode_image", "masked_crops", "masked_crops_of_pictures"),
    *("ensemble_scores", "upsampled_mask_probs"),
}
APART = {
    "pipeline/train_proposals/task.py": {"preprocess"},  # with gradients, which the core is without
    "pipeline/finetune/task.py": {"encode_image"},
    "pipeline/dry_run/crop_cost.py": {"encode_image"},  # counts operations, without numbers
    "pipeline/clip_loading.py": {"encode_image"},  # looks at the length of embeddings, without numbers
}


def called(path: Path) -> set[str]:
    """Return the names of the functions and methods that a module calls."""
    calls = [node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    return {call.attr if isinstance(call, ast.Attribute) else getattr(call, "id", "") for call in calls}


@pytest.mark.parametrize("package", ["pipeline", "flows"])
def test_no_stage_runs_a_net_by_itself(package):
    paths = (ROOT / package).rglob("*.py")
    found = {str(path.relative_to(ROOT)): names for path in paths if (names := called(path) & OF_THE_CORE)}
    assert found == (APART if package == "pipeline" else {})


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        ("ovseg_models/segmenter.py", {"propose", "embed_regions", "classify", "fused_labels"}),
        ("pipeline/evaluate/nets.py", {"propose", "embed_regions"}),
        ("pipeline/evaluate/prediction.py", {"classify", "fused_labels"}),
        ("pipeline/evaluate/weight_trial.py", {"embed_crops", "classify"}),
        ("pipeline/mine/proposer.py", {"propose"}),
        ("pipeline/mine/embedder.py", {"cut_regions_of_pictures", "embed_crops"}),
        ("pipeline/train_proposals/validation.py", {"propose", "classify", "fused_labels"}),
        ("pipeline/finetune/validation.py", {"cut_regions"}),
    ],
)
def test_all_are_composed_of_the_same_steps(module, expected):
    assert expected <= called(ROOT / module)
