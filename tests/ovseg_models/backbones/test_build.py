import pytest
import timm
import torch
from safetensors.torch import save_file

from ovseg_models.backbones import build_backbone

SMALL = {"channels": [8, 16, 24, 32], "stem_width": 8}


def test_weights_come_from_a_file(tmp_path):
    torch.manual_seed(0)
    whole = timm.create_model("resnet10t", **SMALL)
    save_file(whole.state_dict(), tmp_path / "whole.safetensors")
    torch.save({"state_dict": {f"module.{k}": v for k, v in whole.state_dict().items()}}, tmp_path / "whole.pth")
    from_safetensors = build_backbone("resnet10t", pretrained=str(tmp_path / "whole.safetensors"), timm_arguments=SMALL)
    from_torch = build_backbone("resnet10t", pretrained=str(tmp_path / "whole.pth"), timm_arguments=SMALL)
    for name, tensor in whole.state_dict().items():
        if not name.startswith("fc."):
            assert torch.equal(from_safetensors.body.state_dict()[name], tensor)
            assert torch.equal(from_torch.body.state_dict()[name], tensor)


def test_a_file_that_does_not_fit_is_refused_with_its_keys(tmp_path):
    whole = timm.create_model("resnet10t", **SMALL)
    save_file(whole.state_dict(), tmp_path / "small.safetensors")
    with pytest.raises(ValueError, match=r"small\.safetensors: its keys do not fit.* misshapen .*layer1\.0\.bn1\.bias"):
        build_backbone("resnet10t", pretrained=str(tmp_path / "small.safetensors"))


def test_unknown_names_tags_and_files_are_refused(tmp_path):
    with pytest.raises(ValueError, match="'resnet1000': no such backbone"):
        build_backbone("resnet1000")
    with pytest.raises(ValueError, match=r"'resnet101s': pretrained is 'openai'.*\['gluon_in1k'\]"):
        build_backbone("r101c", pretrained="openai")
    with pytest.raises(FileNotFoundError, match=r"gone\.pth: there is no such file"):
        build_backbone("resnet10t", pretrained=str(tmp_path / "gone.pth"))
