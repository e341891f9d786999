"""The choice of an ensemble weight on mined validation pairs, without any test label.

Reads ``pairs`` and ``proposals`` of pictures that no test set holds, a proposal net and CLIP; writes
``weight_choices``. Each pair's region is named by both branches among the nouns of all pairs; a weight is as good as
the share of regions whose own noun scores highest. A caution: mining gave each noun to the region that the original
CLIP liked best, so pairs lean towards CLIP's branch.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from ovseg_models.fusion import ensemble_scores
from ovseg_models.masked_crops import Fill, crops_of_regions, patch_mask
from ovseg_models.proposal_net import LOGIT_TEMPERATURE
from pipeline.errors import PipelineError
from pipeline.evaluate.nets import Nets, NetSources
from pipeline.evaluate.variants import ClipView
from pipeline.pair_pictures import pair_pictures
from pipeline.shard_runner import StageReport, UnitPlan, run_stage
from pipeline.worker_device import crops_at_once
from storage_schemas.artifact import Artifact
from storage_schemas.digests import Json
from storage_schemas.manifest import Description, Identity, Sidecar
from storage_schemas.pairs import read_index, read_members
from storage_schemas.proposals import read_proposals
from storage_schemas.scenes import OK
from storage_schemas.weight_choices import (
    KIND,
    SCHEMA_VERSION,
    UNIT,
    read_weight_choice,
    write_weight_choice,
)

RECIPE = 1
"""Raise it when the same settings and inputs come to mean another choice."""

_COLUMNS = ("pair", "key", "status", "region", "noun", "crop", "crop_mask")


class MinedPair(NamedTuple):
    """One mined region and its noun.

    Attributes:
        noun: What the caption says.
        proposal_embedding: Of the region's query [dim].
        pixels: The region's box, RGB [height width 3].
        mask: Inside the region [height width].
    """

    noun: str
    proposal_embedding: npt.NDArray[np.float32]
    pixels: npt.NDArray[np.uint8]
    mask: npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightChoiceJob:
    """Tries all weights on pairs.

    Attributes:
        pairs: Mined from proposals, finished.
        proposals: The proposals that the pairs are of, finished.
        nets: Where nets come from.
        view: How CLIP looks.
        ensemble_weights: To be tried.
        limit: Pairs at most; the first ones in order.
    """

    pairs: Artifact
    proposals: Artifact
    nets: NetSources
    view: ClipView
    ensemble_weights: tuple[float, ...]
    limit: int

    def open(self) -> Nets:
        """Set up the nets."""
        return self.nets.open()

    @torch.no_grad()
    def run(self, state: Nets, artifact: Artifact, unit: str) -> Sidecar:
        """Try all weights; there is but one unit.

        Raises:
            PipelineError: If the pairs hold fewer than two different nouns.
        """
        dim = state.proposal_net.no_object_embedding.shape[1]
        found = list(islice(mined_pairs(self.pairs, self.proposals, dim), self.limit))
        nouns = sorted({pair.noun for pair in found})
        if len(nouns) < 2:
            message = f"{self.pairs.directory}: holds {len(nouns)} nouns, at least two to choose from are wanted"
            raise PipelineError(f"{message}; mine more pictures")
        own = torch.tensor([nouns.index(pair.noun) for pair in found])
        proposal_probs, clip_probs = self._branches(state, found, nouns)
        valid = torch.ones(len(found), dtype=torch.bool)
        rows = []
        for weight in self.ensemble_weights:
            named = ensemble_scores(proposal_probs, clip_probs, valid, weight).argmax(dim=1)
            rows.append(
                {
                    "ensemble_weight": weight,
                    "pairs": len(found),
                    "nouns": len(nouns),
                    "correct": int((named == own).sum()),
                }
            )
        return write_weight_choice(artifact, rows)

    def _branches(
        self, nets: Nets, pairs: Sequence[MinedPair], nouns: Sequence[str]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return both branches' probabilities of the nouns [pair noun], on the CPU."""
        texts = nets.embedded_names(nouns)
        embeddings = torch.from_numpy(np.stack([pair.proposal_embedding for pair in pairs])).to(nets.device)
        proposal_probs = nets.proposal_net.class_logits(embeddings, texts).softmax(dim=1)[:, :-1]
        clip = nets.clip(self.view.clip)
        fill: Fill = "mean" if self.view.masked else "unmasked"
        clip_probs = []
        batch_crops = crops_at_once(self.nets.batch_crops, nets.device)
        for start in range(0, len(pairs), batch_crops):
            regions = [
                (torch.from_numpy(pair.pixels).permute(2, 0, 1), torch.from_numpy(pair.mask))
                for pair in pairs[start : start + batch_crops]
            ]
            crops, masks = crops_of_regions(regions, crop_px=clip.crop_px, fill=fill)
            patches = patch_mask(masks, clip.patch_px).to(nets.device) if self.view.mask_prompts else None
            embedded = nets.embedded_crops(clip, crops.to(nets.device), patches)
            clip_probs.append((LOGIT_TEMPERATURE * embedded @ texts.T).softmax(dim=1))
        return proposal_probs.cpu(), torch.cat(clip_probs).cpu()


@dataclass(frozen=True, slots=True)
class WeightChoice:
    """What the pairs say.

    Attributes:
        report: What the run did.
        numbers: The share of pairs named rightly per weight, and the best weight, as JSON values.
    """

    report: StageReport
    numbers: dict[str, Json]


def plan_weight_choice(
    job: WeightChoiceJob, *, name: str, runs: Path, decisive: Mapping[str, Json], inputs: Mapping[str, str]
) -> UnitPlan[WeightChoiceJob]:
    """Find out what choosing a weight will do; reads and makes nothing.

    Args:
        job: What makes it.
        name: Of the artifact.
        runs: Runs directory.
        decisive: Settings that change what the branches say.
        inputs: Digests of the inputs.
    """
    identity = Identity(
        kind=KIND,
        name=name,
        schema_version=SCHEMA_VERSION,
        recipe=RECIPE,
        settings={
            **decisive,
            "view": asdict(job.view),
            "ensemble_weights": list(job.ensemble_weights),
            "limit": job.limit,
        },
        inputs=inputs,
    )
    return UnitPlan(Artifact.planned(runs, Description(identity=identity, units=(UNIT,))), job)


def choose_weight(plan: UnitPlan[WeightChoiceJob]) -> WeightChoice:
    """Try all weights on mined pairs, unless that is done.

    Raises:
        StageError: If it could not be done.
    """
    report = run_stage(plan.job, plan.artifact)
    return WeightChoice(report, choice_numbers(read_weight_choice(plan.artifact).to_pylist()))


def choice_numbers(rows: Sequence[dict[str, Any]]) -> dict[str, Json]:
    """Return accuracies, and the weight with the highest; of several equal ones the middle, the lower of two.

    Few pairs leave many weights equal, and the middle is as far as can be from those that are worse.

    Args:
        rows: Of the table, by ascending weight.
    """
    accuracies = [
        {"ensemble_weight": row["ensemble_weight"], "accuracy": row["correct"] / row["pairs"]} for row in rows
    ]
    highest = max(row["accuracy"] for row in accuracies)
    best = [row["ensemble_weight"] for row in accuracies if row["accuracy"] == highest]
    return {
        "rows": accuracies,
        "pairs": rows[0]["pairs"],
        "nouns": rows[0]["nouns"],
        "chosen": best[(len(best) - 1) // 2],
    }


def mined_pairs(pairs: Artifact, proposals: Artifact, embedding_dim: int) -> Iterator[MinedPair]:
    """Read pairs with their proposals' embeddings, in order."""
    for unit in pairs.description.units:
        index = read_index(pairs, unit, columns=_COLUMNS)
        columns = {name: index[name].to_pylist() for name in ("key", "status", "region", "noun")}
        rows = [row for row, status in enumerate(columns["status"]) if status == OK]
        wanted = {columns["key"][row] for row in rows}
        embeddings = {
            (scene.key, int(query)): scene.embeddings[place]
            for scene in read_proposals(proposals, unit, embedding_dim=embedding_dim)
            if scene.key in wanted
            for place, query in enumerate(scene.queries)
        }
        for row, members in zip(rows, read_members(pairs, unit, index, rows), strict=True):
            place = (columns["key"][row], columns["region"][row])
            yield MinedPair(columns["noun"][row], embeddings[place], *pair_pictures(members))
