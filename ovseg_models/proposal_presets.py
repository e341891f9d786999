"""The sizes of the proposal nets, and the one builder that turns sizes into a net."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from types import MappingProxyType
from typing import Any, Literal

from ovseg_models.backbones import build_backbone
from ovseg_models.pixel_decoder import PixelDecoder
from ovseg_models.proposal_net import Perceptron, ProposalNet
from ovseg_models.query_decoder import QueryDecoder

QUERY_SOURCES = {"res3": 1, "res4": 2, "res5": 3}
_LEAST = {
    "embedding_dim": 1,
    "embedding_hidden_dim": 1,
    "no_object_std": 0,
    "queries": 1,
    "hidden_dim": 4,
    "mask_dim": 1,
    "norm_groups": 1,
    "heads": 1,
    "feedforward_dim": 1,
    "encoder_layers": 0,
    "decoder_layers": 1,
    "dropout": 0,
}


@dataclass(frozen=True, kw_only=True)
class ProposalNetArguments:
    """All numbers of a proposal net, as plain values that JSON can hold.

    Attributes:
        backbone: See `build_backbone`.
        backbone_arguments: Its further arguments, for example ``{"freeze_at": 2}``.
        pretrained: A timm tag or a file of weights for the backbone, or False.
        embedding_dim: Of CLIP's space.
        embedding_hidden_dim: Hidden width of the proposal-embedding head.
        no_object_std: Of the no-object embedding at the start: one over the root of the text tower's width.
        queries: Proposals per image.
        hidden_dim: Width of the queries and of the pixel decoder.
        mask_dim: Channels of the mask features.
        norm_groups: Groups of the pixel decoder's norms.
        feedforward_dim: Hidden width of the decoder's feed-forward nets.
        encoder_layers: Self-attention layers among the pixels of res5.
        decoder_layers: Each is supervised.
        dropout: In encoder and decoder.
        query_source: The backbone's map that encoder and decoder read; a small picture's res5 is a few pixels only.
    """

    backbone: str
    backbone_arguments: Mapping[str, Any] = field(default_factory=dict)
    pretrained: str | Literal[False] = False
    embedding_dim: int = 512
    embedding_hidden_dim: int = 1024
    no_object_std: float = 512**-0.5
    queries: int = 100
    hidden_dim: int = 256
    mask_dim: int = 256
    norm_groups: int = 32
    heads: int = 8
    feedforward_dim: int = 2048
    encoder_layers: int = 0
    decoder_layers: int = 6
    dropout: float = 0.1
    query_source: Literal["res3", "res4", "res5"] = "res5"

    def __post_init__(self) -> None:
        """Refuse sizes that no net can have."""
        if self.query_source not in QUERY_SOURCES:
            raise ValueError(
                f"proposal net: query_source is {self.query_source!r}, one of {sorted(QUERY_SOURCES)} is expected; "
                "correct the name"
            )
        for name, least in _LEAST.items():
            if getattr(self, name) < least:
                raise ValueError(
                    f"proposal net: {name} is {getattr(self, name)}, at least {least} is expected; raise it"
                )
        divisors = {"heads": self.heads, "norm_groups": self.norm_groups, "4 (sine and cosine of two coordinates)": 4}
        for name, divisor in divisors.items():
            if self.hidden_dim % divisor:
                raise ValueError(
                    f"proposal net: hidden_dim is {self.hidden_dim}, a multiple of {name} = {divisor} is expected; "
                    "change one of them"
                )


_SMALL_RESNET = {"timm_arguments": {"channels": [24, 48, 72, 96], "stem_width": 16}}

PRESETS: Mapping[str, ProposalNetArguments] = MappingProxyType({
    "r101c": ProposalNetArguments(backbone="r101c"),
    "swin_b": ProposalNetArguments(
        backbone="swin_base_patch4_window12_384", embedding_dim=768, no_object_std=768**-0.5
    ),
    "small": ProposalNetArguments(
        backbone="resnet10t",
        backbone_arguments=_SMALL_RESNET,
        embedding_dim=96,
        embedding_hidden_dim=128,
        no_object_std=96**-0.5,
        queries=16,
        hidden_dim=64,
        mask_dim=64,
        norm_groups=8,
        heads=4,
        feedforward_dim=128,
        decoder_layers=2,
    ),
})  # fmt: skip


def build_proposal_net(preset: str | None = None, **arguments: Any) -> ProposalNet:
    """Build a proposal net from plain arguments.

    ``build_proposal_net("r101c")`` and ``build_proposal_net("swin_b")`` are the paper's nets;
    ``build_proposal_net("small")`` has 0.6 M parameters, for pictures of about 100 px.
    ``build_proposal_net(**net.arguments)`` builds a net of the same form as ``net``, with new random weights.

    Args:
        preset: One of `PRESETS`, whose values hold where no argument is given.
        **arguments: Of `ProposalNetArguments`.

    Returns:
        A net in training mode. Its ``arguments`` say ``pretrained: False``, for its weights are its own from here on.

    Raises:
        ValueError: If the preset or an argument is unknown, or a value is out of bounds.
    """
    known = {entry.name for entry in fields(ProposalNetArguments)}
    if unknown := arguments.keys() - known:
        raise ValueError(
            f"proposal net: unknown arguments {sorted(unknown)}, known are {sorted(known)}; correct the name"
        )
    if preset is None and "backbone" not in arguments:
        raise ValueError(
            f"proposal net: no backbone is named; give backbone=... or one of the presets {sorted(PRESETS)}"
        )
    if preset is not None and preset not in PRESETS:
        raise ValueError(f"proposal net: preset is {preset!r}, one of {sorted(PRESETS)} is expected; correct the name")
    sizes = ProposalNetArguments(**arguments) if preset is None else replace(PRESETS[preset], **arguments)
    net = _assemble(sizes)
    net.arguments = asdict(sizes) | {"pretrained": False}
    return net


def _assemble(sizes: ProposalNetArguments) -> ProposalNet:
    """Build the parts and put them together."""
    backbone = build_backbone(sizes.backbone, pretrained=sizes.pretrained, **sizes.backbone_arguments)
    query_channels = backbone.channels[QUERY_SOURCES[sizes.query_source]]
    return ProposalNet(
        backbone,
        PixelDecoder(
            backbone.channels, width=sizes.hidden_dim, mask_width=sizes.mask_dim, norm_groups=sizes.norm_groups
        ),
        QueryDecoder(
            query_channels,
            queries=sizes.queries,
            width=sizes.hidden_dim,
            heads=sizes.heads,
            feedforward_width=sizes.feedforward_dim,
            encoder_layers=sizes.encoder_layers,
            decoder_layers=sizes.decoder_layers,
            dropout=sizes.dropout,
        ),
        mask_head=Perceptron((sizes.hidden_dim, sizes.hidden_dim, sizes.hidden_dim, sizes.mask_dim)),
        embedding_head=Perceptron((sizes.hidden_dim, sizes.embedding_hidden_dim, sizes.embedding_dim)),
        no_object_std=sizes.no_object_std,
        query_source=sizes.query_source,
    )
