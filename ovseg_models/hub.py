"""Segmenters on the Hugging Face Hub: which files are fetched, and the card that describes them.

Only JSON and safetensors are ever fetched or written, beside the card and the text files of a tokenizer; nothing that
could hold code, such as a pickle.
"""

from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData, snapshot_download
from huggingface_hub.errors import HFValidationError

import ovseg_models
from ovseg_models.image_towers import tower_name
from ovseg_models.segmenter_folder import JSON_NAME, SegmenterParts

LIBRARY = "ovseg-pipeline"
PAPER = "https://arxiv.org/abs/2210.04150"
HUB_FILES = [JSON_NAME, "*.safetensors", "tokenizer/*.json", "tokenizer/*.txt", "tokenizer/*.model"]
"""What of a repository is fetched."""
_WORDS_SHOWN = 120
_CARD = """---
{data}
---

# Open-vocabulary segmentation with mask-adapted CLIP

Segments a picture into classes that are named when it is called ([the paper]({paper})). A proposal net finds masks, and
CLIP, adapted to masked pictures, names them.

## How to use it

`pip install {library}`

```python
from ovseg_models import Segmenter

segmenter = Segmenter.from_pretrained("{name}")
result = segmenter("photo.jpg", ["sky", "street", "traffic light"])
result["sky"], result.segments  # a mask; all masks with label and score
result.save("out")  # label map, picture and JSON
```

## What it is

| part | |
|---|---|
{parts}

| setting | value |
|---|---|
{settings}

## Limits

With `segmenter(...)` each pixel gets one of the classes that are named, whether it is there or not; `segmenter.find`
leaves the rest unlabelled. Scores are no calibrated probabilities.

## Licence

{licence}
"""


def downloaded_folder(name: str, **options: Any) -> Path:
    """Fetch a segmenter's files from the Hub, or take them from its cache.

    Args:
        name: ORG/NAME.
        **options: Of ``snapshot_download``: revision, token, cache_dir, local_files_only, force_download.

    Raises:
        FileNotFoundError: If it is neither a folder nor a name of the Hub, or no segmenter lies there.
        ConnectionError: If the files can neither be fetched nor are in the cache.
    """
    try:
        folder = Path(snapshot_download(name, allow_patterns=HUB_FILES, **options))
    except HFValidationError as error:
        raise FileNotFoundError(
            f"{name}: there is no such folder, and it is no name on the Hub (ORG/NAME); check the path"
        ) from error
    except Exception as error:  # the Hub's errors of names, networks and offline mode have no common base
        reason = " ".join(str(error).split())
        raise ConnectionError(
            f"{name}: there is no such folder, and it could not be fetched from the Hub ({reason:.300}); check path or "
            "name, or download the segmenter elsewhere and give its folder"
        ) from error
    if not (folder / JSON_NAME).is_file():
        raise FileNotFoundError(
            f"{name}: has no {JSON_NAME} on the Hub, so that no segmenter of {LIBRARY} lies there; check the name"
        )
    return folder


def model_card(
    parts: SegmenterParts,
    *,
    published_layout: str = "",
    license: str = "unknown",  # noqa: A002
    name: str = "ORG/NAME",
) -> ModelCard:
    """Describe a segmenter: how to use it, what it is made of, its settings and licence.

    Args:
        parts: Of a whole segmenter, with both nets.
        published_layout: Of the published checkpoint that the weights were imported from; empty for others.
        license: Of the weights, as the Hub abbreviates it, such as "apache-2.0".
        name: On the Hub, for the example.

    Raises:
        ValueError: If one of the nets is missing.
    """
    data = ModelCardData(
        library_name=LIBRARY,
        pipeline_tag="image-segmentation",
        license=license,
        tags=["open-vocabulary-segmentation", "semantic-segmentation", "clip", "ovseg"],
    )
    net, clip, words = parts.proposal_net, parts.clip, parts.tokenizer
    if net is None or clip is None:
        raise ValueError("model_card: found one net, both are expected; load a whole segmenter")
    prompts = f"mask prompts in {clip.prompt_depth} layers" if clip.prompt_depth else "no mask prompts"
    reads = "any"
    if words is not None:
        more = ", ..." if len(words.words) > _WORDS_SHOWN else ""
        reads = f"{len(words.words)}: {', '.join(words.words[:_WORDS_SHOWN])}{more}"
    backbone, dim = net.arguments.get("backbone", "built by hand"), net.no_object_embedding.shape[1]
    crops = f"crops of {clip.crop_px} px in patches of {clip.patch_px} px"
    rows = {
        "proposal net": f"{backbone}, embeddings of {dim}",
        "CLIP": f"{tower_name(clip.clip.visual)}, {crops}, {prompts}",
        "words that it reads": reads,
        "written by": f"{LIBRARY} {ovseg_models.__version__}",
    }
    if published_layout:
        rows["weights"] = f"imported from a published checkpoint, in the layout of {published_layout}"
    settings = parts.settings.to_json()
    settings["prompt_templates"] = f"{len(parts.settings.prompt_templates)} sentences"
    licence = f"The weights are under {license}, as whoever saved them says."
    if license == "unknown":
        licence = "Whoever saved these weights did not say under which licence. Ask before you use them."
    if published_layout:
        licence += (
            " They come from a published checkpoint, whose own terms hold: the authors of OVSeg state CC BY-NC 4.0 for "
            "most of their repository."
        )
    return ModelCard(
        _CARD.format(
            data=data.to_yaml(),
            paper=PAPER,
            library=LIBRARY,
            name=name,
            parts=_table(rows),
            settings=_table({f"`{key}`": value for key, value in settings.items()}),
            licence=licence,
        )
    )


def _table(rows: dict[str, Any]) -> str:
    """Return the rows of a table of two columns."""
    return "\n".join(f"| {key} | {value} |" for key, value in rows.items())
