"""Trying ensemble weights on mined pairs: both branches name each pair's region among the nouns of all pairs."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from ovseg_models.encoding import SeenPicture, embed_crops
from ovseg_models.fusion import classify
from ovseg_models.masked_crops import Fill, crops_of_regions, patch_mask
from ovseg_models.one_pass import OnePass
from ovseg_models.precision import autocast
from pipeline.errors import PipelineError
from pipeline.evaluate.nets import Nets, NetSources
from pipeline.evaluate.variants import ClipView
from pipeline.stored_pictures import pair_pictures, upright_picture
from storage_schemas.artifact import Artifact
from storage_schemas.columns import OK
from storage_schemas.manifest import Sidecar
from storage_schemas.pairs import read_index, read_members
from storage_schemas.proposals import read_proposals
from storage_schemas.rle import decode_masks
from storage_schemas.scenes import SceneShard
from storage_schemas.weight_choices import write_weight_choice

_COLUMNS = ("pair", "key", "status", "region", "noun", "crop", "crop_mask")


class MinedPair(NamedTuple):
    """One mined region and its noun.

    Attributes:
        key: Of its scene.
        query: That found the region.
        noun: What the caption says.
        proposal_embedding: Of the region's query [dim].
        pixels: The region's box, RGB [height width 3].
        mask: Inside the region [height width].
    """

    key: str
    query: int
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
        scenes: The pictures that these were found in, finished, which one pass sees; None for crops, which pairs hold.
        nets: Where nets come from.
        view: How CLIP sees the regions.
        limit: Pairs at most; the first ones in order.
    """

    pairs: Artifact
    proposals: Artifact
    scenes: Artifact | None
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
            message = f"{self.pairs.directory}: holds {len(nouns)} nouns, at least two to choose from are expected"
            raise PipelineError(f"{message}; mine more pictures")
        # All weights share the branches' logits [pair noun], so each costs one argmax.
        own = torch.tensor([nouns.index(pair.noun) for pair in found])
        proposal_logits, clip_logits = self._branches(state, found, nouns)
        valid = torch.ones(len(found), dtype=torch.bool)
        rows = []
        for weight in self.ensemble_weights:
            named = classify(proposal_logits, clip_logits, valid, ensemble_weight=weight).scores.argmax(dim=1)
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
        """Return both branches' logits of the nouns [pair column] and [pair noun], on the CPU."""
        texts = nets.embedded_names(nouns)  # [noun dim]
        embeddings = torch.from_numpy(np.stack([pair.proposal_embedding for pair in pairs])).to(nets.device)
        proposal_logits = nets.proposal_net.class_logits(embeddings, texts)
        clip, clip_texts = nets.clip(self.view.clip), nets.vectors_of(self.view.clip, nouns)
        namer = nets.namer(self.view)
        if isinstance(namer, OnePass) and self.scenes is not None:
            seen = self._seen(nets, namer, self.scenes, pairs)
            return proposal_logits.cpu(), clip.class_logits(seen, clip_texts).cpu()
        fill: Fill = "mean" if self.view.masked else "unmasked"
        clip_logits = []
        at_once = nets.crops_at_once
        for start in range(0, len(pairs), at_once):
            # Pairs store the box of their region, so crops are cut from boxes, not from whole pictures.
            regions = [
                (torch.from_numpy(pair.pixels).permute(2, 0, 1), torch.from_numpy(pair.mask))
                for pair in pairs[start : start + at_once]
            ]
            crops, masks = crops_of_regions(
                regions, crop_px=clip.crop_px, preprocessing=clip.crop.preprocessing, fill=fill
            )
            none_is_blank = not self.view.masked and not self.view.mask_prompts
            patches = None if none_is_blank else patch_mask(masks, clip.patch_px)
            with autocast(nets.device, self.nets.precision):
                embedded = embed_crops(
                    clip, crops.to(nets.device), patches, use_mask_prompts=self.view.mask_prompts, at_once=at_once
                )
            clip_logits.append(clip.class_logits(embedded, clip_texts))
        return proposal_logits.cpu(), torch.cat(clip_logits).cpu()

    def _seen(self, nets: Nets, one_pass: OnePass, pictures: Artifact, pairs: Sequence[MinedPair]) -> torch.Tensor:
        """Embed the pairs' regions in one pass of each picture [pair dim]."""
        queries: dict[str, set[int]] = {}
        for pair in pairs:
            queries.setdefault(pair.key, set()).add(pair.query)
        vectors: dict[tuple[str, int], torch.Tensor] = {}
        for unit in self.pairs.description.units:
            scenes = SceneShard(pictures, unit).scenes(labels=False)
            for scene, found in zip(scenes, read_proposals(self.proposals, unit), strict=True):
                rows = [row for row, query in enumerate(found.queries.tolist()) if query in queries.get(scene.key, ())]
                if not rows:
                    continue
                # Masks lie at net size, on whose every pixel a patch has its share as on the picture's own.
                counts = [found.mask_counts[row] for row in rows]
                masks = torch.from_numpy(decode_masks(counts, found.height_px, found.width_px)).to(nets.device)
                picture = torch.from_numpy(np.array(upright_picture(scene))).permute(2, 0, 1)
                with autocast(nets.device, self.nets.precision):
                    embeddings, _ = SeenPicture(one_pass, picture).regions(masks)
                keys = [(scene.key, int(found.queries[row])) for row in rows]
                vectors |= dict(zip(keys, embeddings, strict=True))
        return torch.stack([vectors[pair.key, pair.query] for pair in pairs])


def mined_pairs(pairs: Artifact, proposals: Artifact, embedding_dim: int) -> Iterator[MinedPair]:
    """Read pairs with their proposals' embeddings, in order."""
    for unit in pairs.description.units:
        index = read_index(pairs, unit, columns=_COLUMNS)
        columns = {name: index[name].to_pylist() for name in ("key", "status", "region", "noun")}
        rows = [row for row, status in enumerate(columns["status"]) if status == OK]
        expected = {columns["key"][row] for row in rows}
        embeddings = {
            (scene.key, int(query)): scene.embeddings[place]
            for scene in read_proposals(proposals, unit, embedding_dim=embedding_dim)
            if scene.key in expected
            for place, query in enumerate(scene.queries)
        }
        for row, members in zip(rows, read_members(pairs, unit, index, rows), strict=True):
            place = (columns["key"][row], columns["region"][row])
            yield MinedPair(*place, columns["noun"][row], embeddings[place], *pair_pictures(members))
