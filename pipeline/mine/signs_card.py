"""The card of signs of trust: what they say of the pairs, and how right the pairs are that they put first.

The latter needs truth. Where the scenes have labels, pairs whose noun is a class name are judged by them
(`pipeline.mine.judged_pairs`); on the drawn world that is nearly all of them.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.charts import Points, share_curves
from pipeline.mine.judged_pairs import Curve, judged_pairs, precision_against_yield
from storage_schemas.artifact import Artifact
from storage_schemas.cards import write_card
from storage_schemas.columns import OK
from storage_schemas.digests import Json
from storage_schemas.pair_signs import read_pair_signs
from storage_schemas.pairs import read_index
from storage_schemas.scenes import ScenesAttributes
from storage_schemas.status import README_FILE

MAKER = "ovseg pairs signs 1"
"""Raise the number when text or layout of the card change."""
CURVES_FILE = "precision_against_yield.png"
ORDERS = ("trust", "noun_margin", "region_margin", "score")
YIELDS = (0.2, 0.4, 0.6, 0.8, 1.0)

_QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
_NUMBERS = ("trust", "noun_margin", "noun_rank", "region_margin", "rival_margin", "captions_naming", "area_share")
_JUDGED_PICTURES = 5_000  # takes some minutes, and leaves an error of a percent or so
_DRAWN_POINTS = 200  # of a curve: more are not seen


def make_signs_card(signs: Artifact, pairs: Artifact, scenes: Artifact) -> None:
    """Make the card of finished signs.

    Args:
        signs: Finished.
        pairs: Those that they are of.
        scenes: Those that the pairs were mined from.

    Raises:
        WriteError: If the operating system refuses.
    """
    units = signs.description.units
    rows = pa.concat_tables([read_pair_signs(signs, unit) for unit in units])
    scores = pa.concat_tables([read_index(pairs, unit, columns=("score",)) for unit in units])
    rows = rows.append_column("score", scores["score"])
    rows = rows.filter(pc.equal(rows["status"], OK))
    facts: dict[str, Json] = {
        "pairs": rows.num_rows,
        "quantiles": {name: _quantiles(rows[name]) for name in _NUMBERS},
        "nearest_of_all": pc.sum(pc.equal(rows["noun_rank"], 0)).as_py() or 0,
        "claimed_by_another_noun": rows.num_rows - rows["rival_noun"].null_count,
        "more_instances": pc.sum(rows["more_instances"]).as_py() or 0,
    }
    files = {}
    has_labels = bool(ScenesAttributes.of(scenes).class_names)
    verdicts = judged_pairs(pairs, scenes, most_pictures=_JUDGED_PICTURES) if has_labels else {}
    judged = rows.filter(pa.array([verdicts.get(name) is not None for name in rows["pair"].to_pylist()], pa.bool_()))
    right = [bool(verdicts[name]) for name in judged["pair"].to_pylist()]
    if any(right):
        # an order by a missing number comes last
        curves = {name: precision_against_yield(judged[name].to_numpy(), right) for name in ORDERS}
        share = sum(right) / len(right)
        facts["precision"] = {
            "judged": len(right),
            "right": share,
            "yields": list(YIELDS),
            **{name: [curve.precision_at(yielded) for yielded in YIELDS] for name, curve in curves.items()},
        }
        files[CURVES_FILE] = share_curves(
            {name: _thinned(curve) for name, curve in curves.items()},
            x_label="right pairs that are kept, of all right ones [%]",
            y_label="right ones among the pairs that are kept [%]",
            mark=(1.0, share, "all pairs"),
        )
    files[README_FILE] = _markdown(signs, pairs, facts).encode()
    write_card(signs, maker=MAKER, facts=facts, files=files)


def precision_table(facts: Mapping[str, Any]) -> list[list[str]]:
    """Return a table of precision against yield as text, head first; empty where nothing was judged."""
    precision = facts.get("precision")
    if not precision:
        return []
    head = ["right pairs kept, by", *(f"{share:.0%}" for share in precision["yields"])]
    return [head, *([f"`{name}`", *(f"{value:.1%}" for value in precision[name])] for name in ORDERS)]


def _quantiles(column: pa.ChunkedArray) -> list[float]:
    """Return the quantiles of the values that are there; none of no values."""
    values = column.drop_null().cast(pa.float64()).to_numpy()
    return [round(float(value), 4) for value in np.quantile(values, _QUANTILES)] if len(values) else []


def _thinned(curve: Curve) -> Points:
    """Return some points of a curve, the last one among them; the first few pairs say nothing yet."""
    first = min(int(np.searchsorted(curve.yields, 0.02)), len(curve.yields) - 1)
    places = np.unique(np.linspace(first, len(curve.yields) - 1, _DRAWN_POINTS).round().astype(int))
    return list(zip(curve.yields[places].tolist(), curve.precisions[places].tolist(), strict=True))


def _markdown(signs: Artifact, pairs: Artifact, facts: Mapping[str, Any]) -> str:
    """Write the card as Markdown."""
    count = max(1, facts["pairs"])
    named = {
        "pairs": "pairs with signs",
        "nearest_of_all": "no noun of another picture is nearer to the mask (`noun_rank` 0)",
        "claimed_by_another_noun": "another noun of the picture claims the mask (`rival_noun`)",
        "more_instances": "the picture probably shows more of the noun (`more_instances`)",
    }
    lines = [f"| {what} | {facts[name]:,} | {facts[name] / count:.1%} |" for name, what in named.items()]
    what_it_is = (
        "What stored embeddings say for and against each pair; no picture went through a model for it. The columns are "
        "explained in docs/reference/contracts.md of the project, and in the Parquet files. They are of the pairs with "
        f"the manifest `{pairs.manifest().digest()}`."
    )
    parts = [
        f"# Signs of trust: {signs.identity.name}",
        what_it_is,
        "\n".join(["| | pairs | share |", "| --- | --- | --- |", *lines]),
        "## Quantiles",
        _table(
            [
                ["", *(f"{quantile:.0%}" for quantile in _QUANTILES)],
                *(
                    [f"`{name}`", *(f"{value:.4g}" for value in values)]
                    for name, values in facts["quantiles"].items()
                    if values
                ),
            ]
        ),
    ]
    if table := precision_table(facts):
        precision = facts["precision"]
        how_it_was_judged = (
            f"Labels judge {precision['judged']:,} pairs, whose nouns are class names: {precision['right']:.1%} of "
            "them are right. Each line takes pairs in the order of one number, the highest first, until that share of "
            "the right ones is taken, and says how many of those taken are right."
        )
        parts += [
            "## Precision against yield",
            how_it_was_judged,
            _table(table),
            f"![precision against yield](card/{CURVES_FILE})",
        ]
    return "\n\n".join(parts) + "\n"


def _table(rows: list[list[str]]) -> str:
    head, *body = rows
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *body))
