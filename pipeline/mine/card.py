"""The data card of pairs: what there is, how often, how good, shown on a sheet; made from the pairs alone."""

import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.audit.precision import Findings, findings, in_lines
from pipeline.mine.card_sheet import contact_sheet
from pipeline.mine.signs_card import precision_table
from storage_schemas.artifact import Artifact, artifacts_below
from storage_schemas.cards import card_facts, has_current_card, write_card
from storage_schemas.columns import OK
from storage_schemas.digests import Json
from storage_schemas.pair_signs import KIND as SIGNS
from storage_schemas.pairs import ORIGIN, read_index
from storage_schemas.status import README_FILE
from storage_schemas.verdicts import read_verdicts, verdicts_digest

SHEET_FILE = "contact_sheet.png"
IMPORTED_SOURCE = "COCO file"
"""The attribute ``source`` of pairs that were not mined."""
MAKER = "ovseg pairs card 5"
"""Raise the number when text or layout of the card change."""

_COLUMNS = ("key", "status", "noun", "caption_id", "score", "margin", "area_px", "height_px", "width_px")
_MINED = """\
Masked regions with the nouns that name them, mined as in OVSeg (Liang et al., CVPR 2023), section 3.2. How to read
them: docs/start/using_pairs.md of the project."""
_UNCHECKED = " Nobody has checked the pairs by hand."
_IMPORTED = """\
Masked regions with the nouns that name them, imported from a COCO file. How to read them: docs/start/using_pairs.md of
the project."""
_SHEET = (
    f"![pairs, drawn by lot, the nearest first](card/{SHEET_FILE})",
    "Each as it is stored, and what lies inside its mask; below, its noun, its share of the picture, and its score.",
)
_NOUNS_LISTED = 30
_BINS = 20
_SIZE_CATEGORIES = (
    (1_000, "n<1K"),
    (10_000, "1K<n<10K"),
    (100_000, "10K<n<100K"),
    (1_000_000, "100K<n<1M"),
    (math.inf, "1M<n<10M"),
)
"""The Hub's words for how many pairs there are, each with the number that it ends below."""
_QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
_BAR_CHARACTERS = 40


@dataclass(frozen=True, slots=True)
class Histogram:
    """How many values lie between two edges each.

    Attributes:
        edges: Ascending; one more than counts.
        counts: Values from one edge to the next, the last edge included.
    """

    edges: tuple[float, ...]
    counts: tuple[int, ...]

    @classmethod
    def of(cls, values: npt.NDArray[np.float64]) -> "Histogram":
        """Count values in bins of equal width, from their least to their greatest in hundredths."""
        if len(values) == 0:
            return cls((), ())
        low, high = np.floor(values.min() * 100) / 100, np.ceil(values.max() * 100) / 100
        edges = np.linspace(low, max(high, low + 0.01), _BINS + 1)
        counts, _ = np.histogram(values, bins=edges)
        return cls(tuple(round(float(edge), 4) for edge in edges), tuple(int(count) for count in counts))


@dataclass(frozen=True, slots=True, kw_only=True)
class PairFacts:
    """What a card shows.

    Attributes:
        rows: Rows of the tables, failed ones included.
        statuses: Rows per status.
        images: Images in the tables.
        images_with_pairs: Images that gave a pair.
        captions: Different captions of which a noun is in a pair.
        nouns: Different nouns of pairs.
        pairs: Rows that are pairs.
        noun_counts: Pairs per noun, most frequent first.
        scores: Histogram of the pairs' scores.
        quantiles: Quantiles of score, margin and area share by name; the first value is the least.
    """

    rows: int
    statuses: Mapping[str, int]
    images: int
    images_with_pairs: int
    captions: int
    nouns: int
    pairs: int
    noun_counts: Sequence[tuple[str, int]]
    scores: Histogram
    quantiles: Mapping[str, Sequence[float]]

    def to_json(self) -> dict[str, Json]:
        """Return the facts as JSON values."""
        return {**asdict(self), "noun_counts": dict(self.noun_counts), "scores": asdict(self.scores)}


def make_card(artifact: Artifact, *, anew: bool = False) -> bool:
    """Make the card of finished pairs, unless they have it.

    Args:
        anew: Make it even so, such as after signs of trust were made, which the card sums up where they are.

    Returns:
        Whether it was made.

    Raises:
        ArtifactError: If the pairs are not finished.
        WriteError: If the operating system refuses.
    """
    maker = maker_of(artifact)
    if not anew and has_current_card(artifact, maker=maker):
        return False
    facts, audited = pair_facts(artifact), findings(read_verdicts(artifact))
    files = {README_FILE: readme_of(artifact, facts=facts).encode(), SHEET_FILE: contact_sheet(artifact)}
    of_audit: dict[str, Json] = {} if audited is None else {"audit": audited.to_json()}
    write_card(artifact, maker=maker, facts={**facts.to_json(), **of_audit}, files=files)
    return True


def maker_of(artifact: Artifact) -> str:
    """Return what the card of pairs is made by; verdicts that were given since make it anew."""
    digest = verdicts_digest(artifact)
    return f"{MAKER}, verdicts {digest[:12]}" if digest else MAKER


def readme_of(
    artifact: Artifact, data_files: str = "shard-*.tar", *, facts: PairFacts | None = None, has_sheet: bool = True
) -> str:
    """Write the card for people, with what the Hub and ``datasets.load_dataset`` read at its head.

    Args:
        artifact: Finished pairs.
        data_files: Pattern of the files that are loaded, from where the card lies.
        facts: Of the pairs, if they are known.
        has_sheet: Whether the sheet of pairs lies beside it.
    """
    facts = facts or pair_facts(artifact)
    return f"---\n{_hub_metadata(artifact, facts, data_files)}\n---\n\n{markdown(artifact, facts, has_sheet=has_sheet)}"


def pair_facts(artifact: Artifact) -> PairFacts:
    """Count what is in finished pairs."""
    units = artifact.description.units
    rows = pa.concat_tables([read_index(artifact, unit, columns=_COLUMNS) for unit in units])
    pairs = rows.filter(pc.equal(rows["status"], OK))
    nouns = Counter(pairs["noun"].to_pylist())
    pixels = pc.multiply(pairs["height_px"].cast(pa.float64()), pairs["width_px"].cast(pa.float64()))
    score = _numbers(pairs["score"])
    return PairFacts(
        rows=rows.num_rows,
        statuses=dict(sorted(Counter(rows["status"].to_pylist()).items())),
        images=pc.count_distinct(rows["key"]).as_py(),
        images_with_pairs=pc.count_distinct(pairs["key"]).as_py(),
        captions=pc.count_distinct(pairs["caption_id"]).as_py(),
        nouns=len(nouns),
        pairs=pairs.num_rows,
        noun_counts=sorted(nouns.items(), key=lambda entry: (-entry[1], entry[0])),
        scores=Histogram.of(score),
        quantiles={
            "score": _quantiles(score),
            "margin": _quantiles(_numbers(pairs["margin"])),
            "area share": _quantiles(_numbers(pc.divide(pairs["area_px"].cast(pa.float64()), pixels))),
        },
    )


def _hub_metadata(artifact: Artifact, facts: PairFacts, data_files: str) -> str:
    """Return what the Hub and ``datasets.load_dataset`` read at the head of ``README.md``, as YAML.

    Files are named, since ``load_dataset`` would else take the many JSON files for the data. Types are declared, since
    it would else take those of the first five pairs, of which a field that may be missing can be missing in all.
    """
    from huggingface_hub import DatasetCardData  # half a second

    (suffix,) = _crop_suffixes(artifact) or {"png"}
    members = [("__key__", "string"), (suffix, "image"), ("mask.png", "image"), ("txt", "string")]
    features: list[dict[str, object]] = [{"name": name, "dtype": kind} for name, kind in members]
    features.append({"name": "json", "struct": [_feature(field) for field in ORIGIN]})
    licence = str(artifact.description.attributes.get("licence", ""))
    size = next(name for most, name in _SIZE_CATEGORIES if facts.pairs < most)
    metadata = DatasetCardData(
        pretty_name=f"Pairs of masked regions and nouns: {artifact.identity.name}",
        license="apache-2.0" if licence.endswith("Apache-2.0") else "other",
        task_categories=["image-segmentation", "zero-shot-image-classification"],
        size_categories=[size],
        tags=["open-vocabulary-segmentation", "region-text-pairs", "webdataset"],
        configs=[{"config_name": "default", "data_files": [{"split": "train", "path": data_files}]}],
        dataset_info={"features": features} if data_files.endswith(".tar") else None,  # Parquet has types of its own
    )
    return metadata.to_yaml()


def _crop_suffixes(artifact: Artifact) -> set[str]:
    """Return the suffixes of stored crops: one, by the setting that made them."""
    columns = (read_index(artifact, unit, columns=("crop_suffix",)) for unit in artifact.description.units)
    return {suffix for table in columns for suffix in pc.unique(table["crop_suffix"]).to_pylist() if suffix}


def _feature(field: pa.Field) -> dict[str, str]:
    """Describe a field of the JSON members as ``datasets`` does."""
    of_list = pa.types.is_list(field.type) or pa.types.is_fixed_size_list(field.type)
    kind = str(field.type.value_type if of_list else field.type)
    return {"name": field.name, "list" if of_list else "dtype": "float32" if kind == "float" else kind}


def markdown(artifact: Artifact, facts: PairFacts, *, has_sheet: bool = True) -> str:
    """Write the card as Markdown."""
    attributes = artifact.description.attributes
    per_image = facts.pairs / max(1, facts.images)
    audited = findings(read_verdicts(artifact))
    mined = _MINED if audited is not None else _MINED + _UNCHECKED
    parts = [
        f"# Pairs: {artifact.identity.name}",
        _IMPORTED if attributes.get("source") == IMPORTED_SOURCE else mined,
        *(_SHEET if has_sheet else ()),
        _table(
            ("", ""),
            [
                ("data set", _text(str(attributes.get("dataset", "")))),
                ("licence of the pictures and captions", _text(str(attributes.get("licence", "")))),
                ("source of regions and nouns", _code(str(attributes.get("source", "")))),
                ("artifact", f"`{artifact.identity.name}-{artifact.identity.digest()[:12]}`"),
                ("manifest", f"`{artifact.manifest().digest()}`"),
                *_sharing(attributes.get("sharing")),
                *(
                    [("subset", _code(json.dumps(attributes["filter"], sort_keys=True, ensure_ascii=False)))]
                    if "filter" in attributes
                    else []
                ),
                ("images", f"{facts.images:,}, of which {facts.images_with_pairs:,} gave a pair"),
                ("captions named in a pair", f"{facts.captions:,}"),
                ("different nouns", f"{facts.nouns:,}"),
                ("pairs", f"{facts.pairs:,}, {per_image:.2f} per image"),
            ],
        ),
        "## Rows\n\nWhat could not be paired is a row too, with its reason. The counts add up to the rows.",
        _table(
            ("status", "rows"),
            [*((f"`{status}`", f"{count:,}") for status, count in facts.statuses.items()), ("all", f"{facts.rows:,}")],
        ),
        "## Scores\n\nCosine of the region's image embedding and the noun's text embedding.",
        _bars(facts.scores),
        _table(
            ("quantile", *(f"{quantile:.0%}" for quantile in _QUANTILES)),
            [(name, *(f"{value:.4f}" for value in values)) for name, values in facts.quantiles.items() if values],
        ),
        *_audit(audited),
        *_trust(artifact),
        *_nouns(facts),
        *_origin(artifact),
    ]
    return "\n\n".join(parts) + "\n"


def _audit(found: Findings | None) -> list[str]:
    """Write what people found who looked at some of the pairs."""
    if found is None:
        return []
    shares = ", ".join(f"{name} {share:.1%}" for name, share in found.verdicts.items())
    text = (
        "A person has looked at pairs that were drawn by lot from each part of the scores, the areas and the nouns' "
        f"frequencies. Of all pairs: {shares}. Skipped, as nothing could be said: {found.skipped}."
    )
    return [
        f"## Audit\n\n{text}",
        _table(("pairs", "right", "95 % interval", "judged"), in_lines(found)),
    ]


def _origin(artifact: Artifact) -> list[str]:
    """Write by which digests what the pairs were made of is found again."""
    inputs = artifact.identity.inputs
    if not inputs:
        return []
    files = {"clip": "the weights of CLIP", "file": "the COCO file"}
    rows = [
        (role, f"`{digest}`", files.get(role, "`document_digest` of their `manifest.json`"))
        for role, digest in sorted(inputs.items())
    ]
    text = (
        "The field `identity.inputs` of `artifact.json` names each input by the sha256 of its manifest, or of its file."
    )
    return [
        f"## Made of\n\n{text}",
        _table(("input", "digest", "of"), rows),
    ]


def _trust(artifact: Artifact) -> list[str]:
    """Write what signs of trust say of the pairs, where these were made in the same runs directory."""
    digest = artifact.manifest().digest()
    for signs in artifacts_below(artifact.directory.absolute().parent.parent, SIGNS):
        if signs.identity.inputs.get("pairs") != digest:
            continue
        try:
            facts: Any = card_facts(signs)
        except OSError:  # not finished yet
            continue
        text = (
            f"`{SIGNS}/{signs.directory.name}` has for each pair what speaks for and against it; `ovseg pairs filter` "
            f"takes it. {facts['nearest_of_all'] / max(1, facts['pairs']):.1%} of the masks are nearer to their own "
            "noun than to any noun of other pictures."
        )
        table = precision_table(facts)
        if table:
            precision = facts["precision"]
            text += (
                f" Labels judge {precision['judged']:,} pairs: {precision['right']:.1%} are right. Of pairs taken by "
                "one number, the highest first, until that share of the right ones is taken, so many are right:"
            )
        return [f"## Signs of trust\n\n{text}", *([_table(table[0], table[1:])] if table else [])]
    return []


def _sharing(sharing: Any) -> list[tuple[str, str]]:
    """Return in words how many masks were embedded, where masks that overlap shared an embedding."""
    if sharing is None:
        return []
    masks, embedded, above_iou = sharing["masks"], sharing["embedded"], sharing["above_iou"]
    shared = (
        f"{embedded:,} of {masks:,} ({embedded / max(1, masks):.1%}): those that overlap by an IoU above {above_iou} "
        "share an embedding, so a noun may have another mask of such a group; what that costs: docs/guides/mining.md"
    )
    return [("masks embedded", shared)]


def _nouns(facts: PairFacts) -> list[str]:
    """Write which nouns are frequent and which are rare, and how many of each."""
    counts = [count for _, count in facts.noun_counts]
    decades = [(1, 1), (2, 9), (10, 99), (100, 999), (1000, 9999), (10_000, max([10_000, *counts]))]
    spread = [
        (f"{low:,}" if low == high else f"{low:,} to {high:,}", f"{sum(low <= count <= high for count in counts):,}")
        for low, high in decades
        if any(low <= count <= high for count in counts)
    ]
    return [
        "## Nouns",
        _table(("pairs of a noun", "nouns"), spread),
        f"Most frequent: {_listed(facts.noun_counts[:_NOUNS_LISTED])}.",
        f"Least frequent: {_listed(facts.noun_counts[-_NOUNS_LISTED:])}.",
    ]


def _listed(nouns: Sequence[tuple[str, int]]) -> str:
    return ", ".join(f"{_text(noun)} ({count:,})" for noun, count in nouns) or "none"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Write a table of cells that are Markdown: from `_text` or `_code` unless they are known to hold no bar."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _text(text: str) -> str:
    """Write text of a data set as Markdown that shows it as it is: no markup, no HTML, no link, no end of a cell."""
    return re.sub(r"([\\`*_\[\]<>&|~#!])", r"\\\1", _visible(text))


def _code(text: str) -> str:
    """Write text as code within a table."""
    text = _visible(text).replace("|", "\\|")
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    padding = " " if len(fence) > 1 else ""
    return f"{fence}{padding}{text}{padding}{fence}"


def _bars(histogram: Histogram) -> str:
    """Draw a histogram of signs."""
    most = max(histogram.counts, default=0)
    lines = [
        f"{low:+.4f} to {high:+.4f}  {'#' * round(_BAR_CHARACTERS * count / most):{_BAR_CHARACTERS}}  {count:,}"
        for low, high, count in zip(histogram.edges, histogram.edges[1:], histogram.counts, strict=False)
    ]
    return "\n".join(["```", *lines, "```"])


def _quantiles(values: npt.NDArray[np.float64]) -> tuple[float, ...]:
    """Return the quantiles of values; none of no values."""
    if len(values) == 0:
        return ()
    return tuple(round(float(value), 6) for value in np.quantile(values, _QUANTILES))


def _numbers(column: pa.ChunkedArray) -> npt.NDArray[np.float64]:
    """Return the values of a column that are there."""
    numbers: npt.NDArray[np.float64] = column.drop_null().cast(pa.float64()).to_numpy()
    return numbers


def _visible(text: str) -> str:
    """Write characters without a shape (line ends, marks of direction, control characters) as Python's escapes."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in text
    )
