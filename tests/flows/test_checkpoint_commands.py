"""``ovseg import-checkpoint`` and ``ovseg export-checkpoint``, from the command line's side."""

import pickle

import pytest
import torch
import tyro

from flows import command
from flows.checkpoint_commands import export_checkpoint, import_checkpoint
from ovseg_models.pretrained_clip import build_mask_adapted_clip
from ovseg_models.proposal_presets import build_proposal_net
from ovseg_models.published_checkpoints import write_published_checkpoint
from ovseg_models.segmenter import Segmenter
from ovseg_models.segmenter_folder import SegmenterParts, read_segmenter_folder
from pipeline.errors import PipelineError
from tests.tiny_segmenter import picture

SWIN = {
    "backbone": "swin_base_patch4_window12_384",
    "backbone_arguments": {
        "timm_arguments": {"embed_dim": 8, "depths": [1, 1, 1, 1], "num_heads": [1, 2, 2, 4], "window_size": 3}
    },
    "embedding_dim": 24,
    "queries": 5,
    "hidden_dim": 16,
    "norm_groups": 4,
    "heads": 2,
    "decoder_layers": 1,
}
CLIP = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 16, "patch_size": 8, "width": 32, "head_width": 32, "layers": 2},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 1, "layers": 1},
}
SIZES = ["--heads", "2", "--norm-groups", "4", "--head-width", "32"]


def parts(*, with_net=True, seed=0) -> SegmenterParts:
    torch.manual_seed(seed)
    net = build_proposal_net(**SWIN) if with_net else None
    return SegmenterParts(net, build_mask_adapted_clip(CLIP, prompt_depth=2, quick_gelu=True, seed=seed))


def test_import_and_export_from_the_command_line(tmp_path, capsys):
    write_published_checkpoint(parts(), tmp_path / "model.pth")
    tyro.cli(import_checkpoint, args=[str(tmp_path / "model.pth"), "--out", str(tmp_path / "segmenter"), *SIZES])
    printed = capsys.readouterr().out
    assert "proposal net of swin_base_patch4_window12_384" in printed
    assert "CLIP of 16 px crops in 8 px patches, mask prompts in 2 layers" in printed
    segmenter = Segmenter.load(tmp_path / "segmenter", short_side_px=32, max_side_px=64)
    assert segmenter.segment(picture(), ["cat", "dog"]).label_map.shape == (50, 70)
    tyro.cli(export_checkpoint, args=[str(tmp_path / "segmenter"), "--out", str(tmp_path / "again.pth")])
    first, again = (torch.load(tmp_path / name, weights_only=True)["model"] for name in ("model.pth", "again.pth"))
    assert first.keys() == again.keys()
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_a_part_is_completed_by_a_base(tmp_path, capsys):
    write_published_checkpoint(parts(), tmp_path / "model.pth")
    write_published_checkpoint(parts(with_net=False, seed=1), tmp_path / "epoch_5.pt")
    import_checkpoint(tmp_path / "model.pth", out=tmp_path / "base", heads=2, norm_groups=4, head_width=32)
    import_checkpoint(tmp_path / "epoch_5.pt", out=tmp_path / "alone", head_width=32)
    assert "the proposal net is missing; --base takes it from another segmenter" in capsys.readouterr().out
    import_checkpoint(tmp_path / "epoch_5.pt", out=tmp_path / "whole", base=tmp_path / "base", head_width=32)
    clip = Segmenter.load(tmp_path / "whole").clip
    assert torch.equal(clip.mask_prompts, parts(with_net=False, seed=1).clip.mask_prompts)


def test_errors_are_reported_without_a_traceback(tmp_path):
    torch.save({"fc.weight": torch.zeros(1)}, tmp_path / "resnet.pth")
    with pytest.raises(PipelineError, match=r"resnet\.pth: none of the known layouts"):
        import_checkpoint(tmp_path / "resnet.pth", out=tmp_path / "out")
    with pytest.raises(PipelineError, match=r"absent\.pth: there is no such file"):
        import_checkpoint(tmp_path / "absent.pth", out=tmp_path / "out")
    with pytest.raises(PipelineError, match=r"absent/segmenter\.json: there is no such file"):
        export_checkpoint(tmp_path / "absent", out=tmp_path / "out.pth")
    assert not (tmp_path / "out").exists()


@pytest.fixture(autouse=True)
def _logging_as_it_is(monkeypatch):
    monkeypatch.setattr(command, "configure_logging", lambda _: None)


class Trap:
    """Opens a file when it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return open, (str(self.marker), "w")


@pytest.mark.parametrize("suffix", [".pth", ".pkl"])
def test_a_file_made_to_run_code_ends_in_one_message_and_exit_code_2(tmp_path, capsys, suffix):
    path = tmp_path / f"trap{suffix}"
    path.write_bytes(pickle.dumps({"model": {"backbone.weight": Trap(tmp_path / "code-was-run")}}, protocol=2))
    assert command.main(["import-checkpoint", str(path), "--out", str(tmp_path / "out")]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith(f"ovseg: {path}: cannot be read without running code from it, or is damaged (")
    assert printed.count("\n") == 1
    assert list(tmp_path.iterdir()) == [path]


def test_the_command_lists_every_key_that_does_not_fit(tmp_path, capsys):
    write_published_checkpoint(parts(), tmp_path / "model.pth")
    content = torch.load(tmp_path / "model.pth", weights_only=True)
    content["model"]["sem_seg_head.stranger"] = content["model"].pop("backbone.norm0.bias")
    torch.save(content, tmp_path / "other.pth")
    arguments = ["import-checkpoint", str(tmp_path / "other.pth"), "--out", str(tmp_path / "out"), *SIZES]
    assert command.main(arguments) == 2
    printed = capsys.readouterr().err.splitlines()
    assert printed[0].endswith(
        "other.pth: 1 missing, 1 unexpected, 0 misshapen keys, none is expected; check that the file is"
        " whole and of a published model:"
    )
    assert printed[1:] == ["ovseg:   missing: backbone.norm0.bias", "ovseg:   unexpected: sem_seg_head.stranger"]


def test_the_activation_is_an_option(tmp_path):
    write_published_checkpoint(parts(with_net=False), tmp_path / "clip.pt")
    arguments = [str(tmp_path / "clip.pt"), "--out", str(tmp_path / "out"), *SIZES, "--activation", "gelu"]
    tyro.cli(import_checkpoint, args=arguments)
    clip = read_segmenter_folder(tmp_path / "out").clip
    assert type(clip.clip.visual.transformer.resblocks[0].mlp.gelu).__name__ == "GELU"


@pytest.mark.parametrize("activation", ["quick-gelu", "gelu"])
def test_the_import_states_the_activation_that_it_assumed(tmp_path, capsys, activation):
    write_published_checkpoint(parts(with_net=False), tmp_path / "clip.pt")
    import_checkpoint(tmp_path / "clip.pt", out=tmp_path / "out", head_width=32, activation=activation)
    assert f"CLIP's activation: {activation}, which no file states" in capsys.readouterr().out


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
def test_compiled_checkpoints_are_imported_and_written_again_as_they_were(tmp_path, prefix):
    write_published_checkpoint(parts(with_net=False), tmp_path / "clip.pt")
    content = torch.load(tmp_path / "clip.pt", weights_only=True)["state_dict"]
    renamed = {prefix + name.removeprefix("module."): tensor for name, tensor in content.items()}
    torch.save({"epoch": 5, "state_dict": renamed}, tmp_path / "compiled.pt")
    import_checkpoint(tmp_path / "compiled.pt", out=tmp_path / "out", head_width=32)
    export_checkpoint(tmp_path / "out", out=tmp_path / "again.pt")
    again = torch.load(tmp_path / "again.pt", weights_only=True)["state_dict"]
    assert again.keys() == renamed.keys()
    assert all(torch.equal(again[name], renamed[name]) for name in renamed)


def test_a_page_and_weights_that_are_no_numbers_end_in_one_line_and_exit_code_2(tmp_path, capsys):
    (tmp_path / "html.pth").write_text("<!DOCTYPE html><html><body>Quota exceeded</body></html>")
    write_published_checkpoint(parts(with_net=False), tmp_path / "nan.pt")
    content = torch.load(tmp_path / "nan.pt", weights_only=True)
    content["state_dict"]["module.visual.proj"] *= float("nan")
    torch.save(content, tmp_path / "nan.pt")
    for name, found in (("html.pth", "is an HTML page: the download failed"), ("nan.pt", "visual.proj holds 768 NaN")):
        assert command.main(["import-checkpoint", str(tmp_path / name), "--out", str(tmp_path / "out"), *SIZES]) == 2
        printed = capsys.readouterr().err
        assert found in printed
        assert printed.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_tiny_tensors_that_describe_a_huge_net_are_refused_before_it_is_built(tmp_path):
    """0.4 MB: towers as wide as a patch kernel of one pixel says, and 200 layers of one number each."""
    shapes = {
        "visual.conv1.weight": (32768, 3, 1, 1),
        "visual.positional_embedding": (5, 1),
        "positional_embedding": (77, 64),
        "visual.proj": (1, 64),
        "token_embedding.weight": (100, 1),
        "logit_scale": (),
    }
    tensors = {name: torch.zeros(shape) for name, shape in shapes.items()}
    tensors |= {f"visual.transformer.resblocks.{layer}.x": torch.zeros(1) for layer in range(200)}
    torch.save(tensors, tmp_path / "clip.pt")
    with pytest.raises(PipelineError, match=r"clip\.pt: the sizes ask for a net of more than \d+ numbers"):
        import_checkpoint(tmp_path / "clip.pt", out=tmp_path / "out")
