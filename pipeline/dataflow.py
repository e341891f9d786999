"""The dataflow: every artifact that settings imply, what it is made of, and by which step.

Status, dry run, commands and the Prefect flow read this page; none of them names a stage or an input again. What a
command does, such as ``make mine`` (``ovseg mine``): it makes the artifacts of its stage that are not complete, in the
order of this page (`pipeline.stages.run`), each by its step (`Propose`, `Embed` and `PairNouns` of ``pipeline/mine``).

A new stage is a module with its `Step`, and its line here. docs/internals/architecture.md has the picture, made from
this page.

Three kinds are no part of it, as they are intermediate and nobody asks for them: ``text_embeddings``, whose nouns are
known when pairs are about to be made, ``branches``, which ablations store for their scores, and ``picture_hashes``, by
which a report finds test pictures among those of training. Two more are made of
finished pairs by commands of their own, and no stage reads them: ``pair_signs`` and ``negatives``.
"""

from collections.abc import Mapping
from pathlib import Path

from pipeline.clip_weights import ClipWeights
from pipeline.data_set_options import RegionKind
from pipeline.evaluate.report.report import BASELINE, Report, StoredBaseline
from pipeline.evaluate.score import Score
from pipeline.evaluate.variants import ORIGINAL
from pipeline.evaluate.weight_choice import ChooseWeight
from pipeline.finetune.average import AverageWeights
from pipeline.finetune.finetune import Finetune
from pipeline.graph import Finished, Graph, Node, Refused, Source
from pipeline.import_masks.import_masks import ImportMasks, imported_name
from pipeline.mine.embed import Embed
from pipeline.mine.pair import PairNouns
from pipeline.mine.propose import Propose
from pipeline.mine.regions import NetSize, net_size
from pipeline.predictions.score_predictions import ScorePredictions
from pipeline.prepare.prepare import Prepare, scenes_name
from pipeline.proposals_report.report import ProposalsReport
from pipeline.settings import MineSettings, ProposeSettings, Settings, SettingsError
from pipeline.train_proposals.train_proposals import TrainProposals


def dataflow(settings: Settings, *, ablate: bool = False) -> Graph:
    """Return the artifacts that settings imply, each after those that it is made of; nothing is read yet.

    Args:
        ablate: Score the paper's ablations too, and what they need besides.
    """
    graph = Graph(settings.runs_dir, settings.name, ClipWeights(settings.clip, settings.runs_dir))
    for setting, dataset in settings.datasets.items():
        graph.add(Prepare(dataset), name=scenes_name(dataset), setting=setting)

    section = settings.proposal_net
    # The CLIP whose texts the proposal net learns: that which names, unless the settings say otherwise.
    net_clip = graph.clip if section.clip is None else ClipWeights(section.clip, settings.runs_dir)
    net = graph.add(
        TrainProposals(settings=section, compute=settings.compute),
        {
            "scenes": graph.scenes(section.dataset, "proposal_net.dataset"),
            "validation": graph.scenes_or_none(section.validation_dataset, "proposal_net.validation_dataset"),
            "clip": net_clip,
        },
        made_here=bool(section.dataset),
    )

    mined = settings.mine.dataset
    labelled = settings.mine.model_copy(update={"source": "masks-classes"})
    source = settings.finetune.pair_source
    mining = labelled if source == "ground-truth" else settings.mine
    _, pairs = _mining(graph, settings, mining, net, mined, made_here=bool(mined))
    if not mined and not settings.finetune.pairs_dir:
        message = (
            "finetune.pairs_dir: is empty, and so is mine.dataset; name an artifact of pairs, or a data set to mine"
        )
        pairs = graph.add(Refused(SettingsError([message])), made_here=False)
    if settings.finetune.pairs_dir:  # mined elsewhere, by these or other settings
        pairs = graph.add(Finished("pairs", settings.finetune.pairs_dir, "finetune.pairs_dir"), made_here=False)
    made_of = {"pairs": pairs}
    if source == "both" and settings.mine.source == "masks-classes":
        message = "finetune.pair_source: is 'both', and mine.source 'masks-classes' is the same pairs; choose 'mined'"
        made_of["ground_truth"] = graph.add(Refused(SettingsError([message])), made_here=False)
    elif source == "both":
        _, made_of["ground_truth"] = _mining(graph, settings, labelled, net, mined, made_here=bool(mined))

    validation = graph.scenes_or_none(settings.finetune.validation_dataset, "finetune.validation_dataset")
    read: dict[str, Source | None] = {**made_of, "validation": validation, "clip": graph.clip}
    if settings.finetune.namer == "one-pass":  # pairs store what is inside their boxes alone
        read["scenes"] = graph.scenes(mined, "mine.dataset")
    left_out = settings.proposal_net.held_out_classes
    finetune = Finetune(settings=settings.finetune, compute=settings.compute, left_out=left_out)
    has_pairs = bool(mined or settings.finetune.pairs_dir)
    clips: dict[str, Node] = {"adapted": graph.add(finetune, read, made_here=has_pairs)}
    if settings.finetune.tuned_share < 1:
        average = AverageWeights(share=settings.finetune.tuned_share)
        tuned: dict[str, Source | None] = {"tuned": clips["adapted"], "clip": graph.clip}
        clips["adapted"] = graph.add(average, tuned, made_here=has_pairs)
    for mode in settings.evaluate.sweep.finetune_modes if ablate else ():  # each is made by a command of its own
        finetune = Finetune(settings=settings.finetune.in_mode(mode), compute=settings.compute, left_out=left_out)
        clips[mode] = graph.add(finetune, read, made_here=False, command=f"ovseg finetune --set finetune.mode={mode}")

    _evaluation(graph, settings, net, clips, ablate=ablate)
    return graph


def _mining(
    graph: Graph,
    settings: Settings,
    mining: MineSettings,
    net: Node,
    dataset: str,
    *,
    made_here: bool,
    command: str = "",
) -> tuple[Node | None, Node]:
    """Add proposals, unless masks are those of the labels, embeddings, and pairs; returns proposals and pairs.

    Proposals are those of the proposal net, or masks of others.
    """
    training, compute = settings.proposal_net, settings.compute
    read: dict[str, Source | None] = {"scenes": graph.scenes(dataset, "mine.dataset"), "clip": graph.clip}
    proposals = None
    if not mining.uses_ground_truth_masks:
        if mining.proposals == "imported":
            captioned = mining.captions_per_image > 0
            proposals = _imported(graph, settings, dataset, "mine.dataset", net_size(mining), captioned=captioned)
        else:
            propose = Propose(mining=mining, training=training, compute=compute)
            read_by_net = {"scenes": read["scenes"], "clip": net.sources["clip"], "proposal_net": net}
            proposals = graph.add(propose, read_by_net, made_here=made_here, command=command)
        read["proposals"] = proposals
    embed = Embed(mining=mining, queries=training.architecture.queries, compute=compute)
    read["embeddings"] = graph.add(embed, read, made_here=made_here, command=command)
    pairs = graph.add(PairNouns(mining=mining, compute=compute), read, made_here=made_here, command=command)
    return proposals, pairs


def _imported(
    graph: Graph, settings: Settings, dataset: str, key: str, size: NetSize, *, captioned: bool = False
) -> Node:
    """Add masks of others for a data set, made when they are needed, in place of the proposal net's."""
    scenes = graph.scenes(dataset, key)
    if dataset not in settings.masks:
        message = f"masks: {dataset!r} has no entry, {key} needs its masks; add [masks.{dataset}] with their path"
        return graph.add(Refused(SettingsError([message])), made_here=False)
    step = ImportMasks(
        settings=settings.masks[dataset],
        size=size,
        compute=settings.compute,
        captioned=captioned,
        where=f"masks.{dataset}.path",
    )
    return graph.add(step, {"scenes": scenes}, name=imported_name(scenes.name), command="ovseg import-masks")


def _evaluation(graph: Graph, settings: Settings, net: Node, clips: Mapping[str, Node], *, ablate: bool) -> None:
    """Add scores on every data set, for ablations the choice of an ensemble weight, and the report of them all."""
    section, compute, suffix = settings.evaluate, settings.compute, "-ablation" if ablate else ""
    read: dict[str, Source] = {}
    for place, dataset in enumerate(section.datasets):
        if dataset.predictions is not None:
            scored = ScorePredictions(dataset=dataset, compute=compute)
            name = f"{settings.name}-{dataset.dataset}-predictions"
            scenes = graph.scenes(dataset.dataset, "evaluate.datasets")
            read[name] = graph.add(scored, {"scenes": scenes}, name=name)
            continue
        alone = settings.clip_names_alone
        score = Score(settings=section, dataset=dataset, compute=compute, ablate=ablate, clip_names_alone=alone)
        name = f"{settings.name}-{dataset.dataset}{suffix}"
        found: dict[str, Node] = {"proposal_net": net}
        if section.proposals == "imported":
            size = NetSize(section.short_side_px, section.max_side_px)
            found = {"proposals": _imported(graph, settings, dataset.dataset, "evaluate.datasets", size)}
        nets = score.inputs_among({**found, **clips})
        read[name] = graph.add(
            score, {"scenes": graph.scenes(dataset.dataset, "evaluate.datasets"), "clip": graph.clip, **nets}, name=name
        )
        if section.baseline == ORIGINAL != section.clip:
            before = section.model_copy(update={"clip": ORIGINAL, "use_mask_prompts": True})  # it has no prompts
            score = Score(settings=before, dataset=dataset, compute=compute, clip_names_alone=alone)
            scenes = graph.scenes(dataset.dataset, "evaluate.datasets")
            read[f"{BASELINE}-{place}"] = graph.add(
                score,
                {"scenes": scenes, "clip": graph.clip, **score.inputs_among(found)},
                name=f"{settings.name}-{dataset.dataset}",
                made_here=False,
                command="ovseg evaluate --set evaluate.clip=original",
            )
    if section.baseline not in ("", ORIGINAL):
        read[BASELINE] = StoredBaseline(Path(section.baseline))
    chosen_on = section.sweep.validation_dataset
    if ablate and chosen_on and section.proposals != "imported":  # whose ensemble is CLIP alone
        command = f"ovseg mine --set mine.dataset={chosen_on}"
        proposals, pairs = _mining(graph, settings, settings.mine, net, chosen_on, made_here=False, command=command)
        adapted = clips["adapted"] if section.clip == "adapted" else None
        imported = settings.mine.proposals == "imported"
        choose = ChooseWeight(settings=section, compute=compute, mined_from=settings.mine.source, imported=imported)
        mined = {"proposals": proposals, "pairs": pairs}
        read["weight_choice"] = graph.add(
            choose, {**mined, "proposal_net": net, "adapted": adapted, "clip": graph.clip}
        )
    graph.add(Report(settings), read, name=f"{settings.name}{suffix}", made_here=bool(section.datasets))


def proposals_reports(settings: Settings, *, regions: RegionKind = "classes") -> list[Node]:
    """Return a report on the proposals of each data set that is evaluated, whoever made them.

    They are no part of a run. The proposal net proposes for these scenes once more, as mining does: a report reads the
    proposals of scenes without captions, too.

    Args:
        settings: Of all stages.
        regions: Which regions the proposals are to meet.
    """
    section = settings.evaluate
    graphs = [dataflow(settings, ablate=True), dataflow(settings)]  # ablations also know what CLIP makes of true masks
    net = graphs[-1].only("proposal_net")
    reports = []
    for place, dataset in enumerate(section.datasets):
        scenes = graphs[-1].scenes(dataset.dataset, "evaluate.datasets")
        scored = [graph.of_kind("scores")[place] for graph in graphs]
        scores = next((node for node in scored if node.is_complete()), None)
        if section.proposals == "imported":
            proposals, source = scored[-1]["proposals"], "Masks of others"
        else:
            propose = ProposeSettings(
                short_side_px=section.short_side_px,
                max_side_px=section.max_side_px,
                mask_threshold=section.mask_threshold,
                precision=section.precision,
                batch_images=settings.mine.propose.batch_images,
            )
            mining = settings.mine.model_copy(update={"propose": propose})
            step = Propose(mining=mining, training=settings.proposal_net, compute=settings.compute, captioned=False)
            read = {"scenes": scenes, "clip": net.sources["clip"], "proposal_net": net}
            name = f"{settings.name}-{dataset.dataset}"
            proposals = Node(step, name, settings.runs_dir, read, command="ovseg proposals-report")
            source = f"Proposals of {settings.proposal_net.architecture.backbone.name}"
        inputs = {"scenes": scenes, "proposals": proposals, **({} if scores is None else {"scores": scores})}
        report = ProposalsReport(dataset=dataset.dataset, source=source, regions=regions)
        name = f"{settings.name}-{dataset.dataset}-proposals"
        reports.append(Node(report, name, settings.runs_dir, inputs, command="ovseg proposals-report"))
    return reports
