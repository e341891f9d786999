"""Published checkpoints as segmenter folders, and back.

Three layouts are read, recognised by their keys:

* ``ovseg``: the whole model, CLIP included, with or without mask prompts;
* ``maskformer``: MaskFormer's own, whose class head knows only the classes that it was trained with. It is left out, so
  CLIP alone must name the proposals (ensemble weight 1) until a proposal-embedding head is trained;
* ``clip``: CLIP alone in the layout of open_clip, of its training (``state_dict``, ``module.``) or of OpenAI.

The last two give one part of a segmenter; `combine_parts` takes the other from an existing one. Every tensor of a file
must have its place, else it is refused with the list of those that haven't. What a file holds beside weights (buffers
of the loss, tables, the half precision of some tensors) is kept, so that writing gives the same tensors again.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from ovseg_models.checkpoint_keys.clip import (
    MASK_PROMPTS_KEY,
    OVSEG_PREFIX,
    clip_config_from_published,
    from_adapted,
    from_ovseg,
    to_ovseg,
)
from ovseg_models.checkpoint_keys.key_report import KeyReport, take_tensors
from ovseg_models.checkpoint_keys.proposal_net import (
    arguments_from_published,
    proposal_net_from_published,
    proposal_net_to_published,
    published_names,
    with_pixel_decoder_level,
)
from ovseg_models.image_towers import OpenClipTower, tower_name
from ovseg_models.mask_adapted_clip import MaskAdaptedClip
from ovseg_models.preprocessing import CLIP_MEAN_RGB, CLIP_STD_RGB
from ovseg_models.pretrained_clip import build_mask_adapted_clip
from ovseg_models.proposal_net import ProposalNet
from ovseg_models.proposal_presets import build_proposal_net
from ovseg_models.segmenter_folder import PublishedOrigin, SegmenterParts
from ovseg_models.segmenter_settings import SegmenterSettings
from ovseg_models.weights import build_for
from ovseg_models.weights_file import open_weights_file

_ADAPTER = "clip_adapter."
_CLASS_HEAD = "sem_seg_head.predictor.class_embed."
_NEW_IN_MASKFORMER = (_CLASS_HEAD, _ADAPTER + "non_object_embedding")
_OPENAI_NUMBERS = frozenset({"input_resolution", "context_length", "vocab_size"})
_ADAPTER_BUFFERS = frozenset({_ADAPTER + "pixel_mean", _ADAPTER + "pixel_std"})
_SWIN_SETTINGS = SegmenterSettings(short_side_px=640, max_side_px=2560, mask_threshold=0.4)
_RESNET_SETTINGS = SegmenterSettings(short_side_px=512, max_side_px=2048, mask_threshold=0.5)


def read_published_checkpoint(
    path: Path,
    *,
    heads: int = 8,
    norm_groups: int = 32,
    head_width: int = 64,
    quick_gelu: bool = True,
    embedding_dim: int | None = None,
) -> SegmenterParts:
    """Read a checkpoint in one of the published layouts, without running code from it.

    Args:
        path: Ends in .safetensors, .pth, .pt, .bin or .pkl (NumPy arrays).
        heads: Attention heads of the proposal net, which no shape shows; 8 in all published ones.
        norm_groups: Groups of its pixel decoder's norms, likewise; 32.
        head_width: Channels of an attention head of CLIP, likewise; 64.
        quick_gelu: Whether CLIP's activation is QuickGELU, which no shape shows either; true of OpenAI's weights and
            of all that descend from them, as the published ones do.
        embedding_dim: Of the embedding head that a MaskFormer checkpoint lacks; by default the builder's.

    Returns:
        One or both nets, and the settings with which they are published: test size and mask threshold of the backbone,
        mask prompts if there are any.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it can't be read safely, is of no known layout, or doesn't fit, with all keys that don't.
    """
    file = open_weights_file(path)
    found = with_pixel_decoder_level(file.tensors)
    layout = _layout(path, found)
    net = clip = None
    reports = []
    try:
        if layout != "clip":
            arguments = arguments_from_published(found, heads=heads, norm_groups=norm_groups)
            if embedding_dim is not None and layout == "maskformer":
                arguments["embedding_dim"] = embedding_dim
            net = build_for(found, lambda: build_proposal_net(**arguments)).eval()
            reports.append(_fill_proposal_net(net, found, layout))
        if layout != "maskformer":
            tensors = from_ovseg(found) if layout == "ovseg" else found
            depth = len(tensors[MASK_PROMPTS_KEY]) if MASK_PROMPTS_KEY in tensors else 0
            config = clip_config_from_published(tensors, head_width=head_width)
            clip = build_for(found, lambda: build_mask_adapted_clip(config, prompt_depth=depth, quick_gelu=quick_gelu))
            reports.append(_fill_clip(clip, found, layout))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    _require_fit(path, reports)
    weights = published_weights(net, clip, layout)
    origin = PublishedOrigin(
        layout=layout,
        wrapper=file.wrapper,
        prefix=file.prefix,
        dtypes={
            name: str(found[name].dtype).removeprefix("torch.")
            for name in weights
            if found[name].dtype != weights[name].dtype
        },
        extras={name: tensor.clone() for name, tensor in found.items() if name not in weights},
    )
    return SegmenterParts(net, clip, None, _settings(layout, net, clip), origin)


def combine_parts(part: SegmenterParts, base: SegmenterParts) -> SegmenterParts:
    """Put an imported net in the place of a segmenter's own.

    Args:
        part: As `read_published_checkpoint` gives it.
        base: Gives the net that ``part`` lacks, the word list if that is CLIP, and the settings.

    Raises:
        ValueError: If ``part`` lacks nothing.
    """
    if part.proposal_net is not None and part.clip is not None:
        raise ValueError("import: the checkpoint holds a whole segmenter, a base has nothing to add; leave --base out")
    if part.clip is not None:
        settings = replace(base.settings, use_mask_prompts=part.clip.prompt_depth > 0)
        return SegmenterParts(base.proposal_net, part.clip, None, settings, same_space=base.same_space)
    settings = replace(base.settings, ensemble_weight=part.settings.ensemble_weight)
    return SegmenterParts(part.proposal_net, base.clip, base.tokenizer, settings, same_space=base.same_space)


def write_published_checkpoint(parts: SegmenterParts, path: Path) -> None:
    """Write a published layout: the one that the parts were read from, else OVSeg's, or CLIP's for CLIP alone.

    Args:
        parts: As `read_segmenter_folder` or `read_published_checkpoint` gives them.
        path: A torch file (.pth, .pt) that isn't there yet.

    Raises:
        FileExistsError: If the file is there already.
        ValueError: If it ends otherwise, or a net is of a form that no published layout has.
    """
    if path.suffix not in {".pth", ".pt"}:
        raise ValueError(f"{path}: ends in {path.suffix!r}, .pth or .pt is expected; choose such a name")
    if path.exists():
        raise FileExistsError(f"{path}: is there already, a new file is expected; choose another name or delete it")
    origin = parts.published or default_origin(parts)
    content = published_tensors(parts, origin)
    temporary = path.with_name(f".tmp-{path.name}")
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({origin.wrapper: content} if origin.wrapper else content, temporary)
    temporary.rename(path)


def published_tensors(parts: SegmenterParts, origin: PublishedOrigin) -> dict[str, Tensor]:
    """Return all the tensors of a published file by name, weights and what is beside them."""
    tensors = {**origin.extras, **published_weights(parts.proposal_net, parts.clip, origin.layout)}
    for name, dtype in origin.dtypes.items():
        tensors[name] = tensors[name].to(getattr(torch, dtype))
    return {origin.prefix + name: tensor.contiguous() for name, tensor in tensors.items()}


def published_weights(net: ProposalNet | None, clip: MaskAdaptedClip | None, layout: str) -> dict[str, Tensor]:
    """Name the nets' weights as a layout does, without what a file holds beside them.

    Raises:
        ValueError: If a net is of a form that no published layout has.
    """
    if clip is not None and clip.blank_patches != "kept":
        raise ValueError(
            "export: CLIP was trained without the tokens of patches outside the mask, and the published code keeps "
            "them: its classes would be others; export a CLIP that was finetuned with blank_patches 'kept'"
        )
    if clip is not None and layout != "clip" and not isinstance(clip.tower, OpenClipTower):
        raise ValueError(
            f"export: CLIP's image tower is a {tower_name(clip.clip.visual)}, the published layout holds open_clip's "
            "VisionTransformer alone; keep the segmenter's folder, or export CLIP alone by 'ovseg export-clip'"
        )
    weights: dict[str, Tensor] = {}
    if net is not None:
        ours = net.state_dict()
        weights |= {theirs: ours[key] for key, theirs in published_names(ours).items()}
    if layout == "maskformer":
        weights = {name: tensor for name, tensor in weights.items() if not name.startswith(_NEW_IN_MASKFORMER)}
    if clip is not None:
        named = from_adapted(clip.state_dict())
        weights |= named if layout == "clip" else to_ovseg(named)
    return weights


def _layout(path: Path, names: Collection[str]) -> str:
    """Recognise a layout by its keys."""
    has_proposal_net = any(name.startswith("sem_seg_head.") for name in names)
    if any(name.startswith(OVSEG_PREFIX) for name in names) and has_proposal_net:
        return "ovseg"
    if has_proposal_net:
        return "maskformer"
    if "logit_scale" in names and any(name.startswith("visual.") for name in names):
        return "clip"
    raise ValueError(
        f"{path}: none of the known layouts (OVSeg, MaskFormer, CLIP) has keys like {sorted(names)[:3]}; "
        "give a published checkpoint"
    )


def _fill_proposal_net(net: ProposalNet, found: Mapping[str, Tensor], layout: str) -> KeyReport:
    """Load what fits of the proposal net; a MaskFormer checkpoint may lack what MaskFormer doesn't have."""
    conversion = proposal_net_from_published(found, net.state_dict())
    net.load_state_dict(conversion.tensors)
    report = conversion.report
    if layout != "maskformer":
        return report
    return KeyReport(
        tuple(key for key in report.missing if not key.startswith(_NEW_IN_MASKFORMER)),
        tuple(key for key in report.unexpected if not key.startswith(_CLASS_HEAD)),
        report.misshapen,
    )


def _fill_clip(clip: MaskAdaptedClip, found: Mapping[str, Tensor], layout: str) -> KeyReport:
    """Load what fits of CLIP."""
    prefix = OVSEG_PREFIX if layout == "ovseg" else ""
    candidates = {name: tensor for name, tensor in found.items() if layout == "clip" or name.startswith(_ADAPTER)}
    expected = clip.state_dict()
    names = {ours: prefix + theirs for ours, theirs in zip(expected, from_adapted(expected), strict=True)}
    ignored = _ADAPTER_BUFFERS | {_ADAPTER + "non_object_embedding"} if layout == "ovseg" else _OPENAI_NUMBERS
    conversion = take_tensors(candidates, expected, names, ignored=ignored)
    clip.load_state_dict(conversion.tensors)
    return conversion.report


def _require_fit(path: Path, reports: Sequence[KeyReport]) -> None:
    """Refuse a file unless every tensor has its place, with all those that haven't."""
    kinds = {
        kind: [key for report in reports for key in getattr(report, kind)]
        for kind in ("missing", "unexpected", "misshapen")
    }
    faults = [f"  {kind}: {key}" for kind, keys in kinds.items() for key in keys]
    if faults:
        counts = ", ".join(f"{len(keys)} {kind}" for kind, keys in kinds.items())
        first = f"{path}: {counts} keys, none is expected; check that the file is whole and of a published model:"
        raise ValueError("\n".join([first, *faults]))


def _settings(layout: str, net: ProposalNet | None, clip: MaskAdaptedClip | None) -> SegmenterSettings:
    """Choose the settings with which a model is published, as far as they are known."""
    is_swin = net is None or str(net.arguments["backbone"]).startswith("swin")
    return replace(
        _SWIN_SETTINGS if is_swin else _RESNET_SETTINGS,
        use_mask_prompts=clip is None or clip.prompt_depth > 0,
        ensemble_weight=1.0 if layout == "maskformer" else SegmenterSettings.ensemble_weight,
    )


def default_origin(parts: SegmenterParts) -> PublishedOrigin:
    """Return how weights that were never published are written: with the buffers that such a file holds."""
    if parts.proposal_net is None:
        return PublishedOrigin(layout="clip", wrapper="state_dict", prefix="module.")
    extras = proposal_net_to_published(parts.proposal_net.state_dict())
    if parts.clip is not None:
        for name, values in (("pixel_mean", CLIP_MEAN_RGB), ("pixel_std", CLIP_STD_RGB)):
            extras[_ADAPTER + name] = 255 * torch.tensor(values).view(1, 3, 1, 1)
    return PublishedOrigin(layout="ovseg", wrapper="model", extras=extras)
