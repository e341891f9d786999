"""The list of ``ovseg``'s subcommands.

A subcommand is a function whose typed arguments and docstring make its options and help (by tyro). Its module imports
nothing heavy (torch, dask, prefect) at the top, so that every ``--help`` is quick. It returns None, or an exit status.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from flows.app_command import app
from flows.audit_command import audit_pairs
from flows.checkpoint_commands import bundle, export_checkpoint, export_clip, import_checkpoint
from flows.compare_command import compare
from flows.explain_command import explain, index_pairs
from flows.flow_commands import demo, run, serve, ui
from flows.masks_commands import export_masks, import_masks, proposals_report
from flows.memory_commands import memory_add, memory_remove, memory_show
from flows.pairs_command import export_pairs, filter_pairs, import_pairs, pair_negatives, pair_signs, pairs_card
from flows.prepare_command import prepare
from flows.segment_command import segment
from flows.stage_commands import evaluate, finetune, mine, train_proposals
from flows.status_command import status
from pipeline.stage_names import STAGE_NAMES

# The stages as the data goes through them, then all else as listed.
_PLACES: dict[str, int] = {name: place for place, name in enumerate(STAGE_NAMES)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Subcommand:
    """What ``ovseg --help`` says of a subcommand, and what does it.

    Attributes:
        name: What the user types after ``ovseg``.
        group: Heading under which it is listed.
        summary: One line, in the imperative.
        function: What does it; its typed arguments and docstring make its options and help.
        examples: Whole command lines.
    """

    name: str
    group: str
    summary: str
    function: Callable[..., Any]
    examples: tuple[str, ...]


_LISTED = (
    Subcommand(
        name="prepare",
        group="stages",
        summary="turn a data set in its official layout, a folder of pictures, or drawn pictures into scenes",
        function=prepare,
        examples=(
            "ovseg prepare drawn-world --split demo --scenes 1000",
            "ovseg prepare coco --root data/coco --split train2017 --labels panoptic --workers 4",
            "ovseg prepare folder --root my_pictures --check",
        ),
    ),
    Subcommand(
        name="import-masks",
        group="masks",
        summary="turn masks of others, such as Segment Anything's, into proposals",
        function=import_masks,
        examples=(
            "ovseg import-masks sam_masks --scenes runs/scenes/coco-val2017-0123456789ab --set rules.max_masks=100",
            "ovseg import-masks --config flows/configs/demo.toml",
        ),
    ),
    Subcommand(
        name="export-masks",
        group="masks",
        summary="write proposals as COCO results",
        function=export_masks,
        examples=(
            "ovseg export-masks runs/proposals/demo-0123456789ab --scenes runs/scenes/drawn-0123456789ab --out m.json",
        ),
    ),
    Subcommand(
        name="proposals-report",
        group="masks",
        summary="report how good proposals are: masks or names, what holds a result back",
        function=proposals_report,
        examples=(
            "ovseg proposals-report --config flows/configs/demo.toml",
            "ovseg proposals-report runs/proposals/demo-0123456789ab --scenes runs/scenes/drawn-0123456789ab",
        ),
    ),
    Subcommand(
        name="mine",
        group="stages",
        summary="mine pairs of masks and nouns from captions, proposals and CLIP (stage 2)",
        function=mine,
        examples=(
            "ovseg mine --config flows/configs/demo.toml",
            "ovseg mine --config flows/configs/demo.toml --set mine.source=proposals-5-captions",
        ),
    ),
    Subcommand(
        name="run",
        group="run",
        summary="run all stages that are not complete, from data sets to scores, as a Prefect flow",
        function=run,
        examples=(
            "ovseg run --config flows/configs/demo.toml",
            "ovseg run --config flows/configs/ovseg_swinb_vitl14.toml --dry-run",
            "ovseg run --config flows/configs/demo.toml --from mine --set compute.workers=4",
            "ovseg run --config flows/configs/demo.toml --only evaluate",
        ),
    ),
    Subcommand(
        name="demo",
        group="run",
        summary="run the flow for CLIP before and after MPT, FT and both, and show the table and a picture",
        function=demo,
        examples=("ovseg demo --config flows/configs/demo.toml",),
    ),
    Subcommand(
        name="ui",
        group="run",
        summary="run Prefect's server, whose pages show the runs and their results, on 127.0.0.1",
        function=ui,
        examples=("ovseg ui --runs runs", "ovseg ui --runs /data/runs --port 4300"),
    ),
    Subcommand(
        name="serve",
        group="run",
        summary="let runs be started, parametrised and scheduled from Prefect's pages",
        function=serve,
        examples=("ovseg serve --config flows/configs/demo.toml",),
    ),
    Subcommand(
        name="train-proposals",
        group="stages",
        summary="train the proposal net on labelled scenes (stage 1)",
        function=train_proposals,
        examples=(
            "ovseg train-proposals --config flows/configs/demo.toml",
            "ovseg train-proposals --config flows/configs/demo.toml --set proposal_net.training.steps=50",
        ),
    ),
    Subcommand(
        name="finetune",
        group="stages",
        summary="adapt CLIP to masked crops with the mined pairs (stage 3)",
        function=finetune,
        examples=(
            "ovseg finetune --config flows/configs/demo.toml",
            "ovseg finetune --config flows/configs/demo.toml --set finetune.mode=mpt",
        ),
    ),
    Subcommand(
        name="evaluate",
        group="stages",
        summary="score predictions on labelled data sets, and write the report (stage 4)",
        function=evaluate,
        examples=(
            "ovseg evaluate --config flows/configs/demo.toml",
            "ovseg evaluate --config flows/configs/demo.toml --set evaluate.clip=original",
            "ovseg evaluate --config flows/configs/demo.toml --baseline original",
            "ovseg evaluate --config flows/configs/demo.toml --ablate",
        ),
    ),
    Subcommand(
        name="compare",
        group="results",
        summary="compare two evaluations, image by image",
        function=compare,
        examples=(
            "ovseg compare runs/scores/demo-drawn-test-0a1b2c3d4e5f runs/scores/demo-drawn-test-5f4e3d2c1b0a",
            "ovseg compare runs/reports/baseline-0a1b2c3d4e5f runs/reports/demo-5f4e3d2c1b0a --json",
        ),
    ),
    Subcommand(
        name="bundle",
        group="segment",
        summary="put proposal net and adapted CLIP into a folder that 'ovseg segment' takes",
        function=bundle,
        examples=("ovseg bundle --config flows/configs/demo.toml --out models/demo",),
    ),
    Subcommand(
        name="export-clip",
        group="segment",
        summary="write the adapted CLIP so that open_clip loads it",
        function=export_clip,
        examples=(
            "ovseg export-clip models/demo --out models/demo-clip",
            "ovseg export-clip --config flows/configs/demo.toml --out models/adapted.safetensors",
        ),
    ),
    Subcommand(
        name="segment",
        group="segment",
        summary="segment photographs into classes that you name",
        function=segment,
        examples=(
            'ovseg segment photo.jpg --classes oculus ukulele "traffic light" --model models/ovseg-swin-b --out out',
            "ovseg segment photos --classes oculus --find --model models/ovseg-swin-b --out out",
        ),
    ),
    Subcommand(
        name="app",
        group="segment",
        summary="show a page in the browser: choose a photograph, type class names, see masks",
        function=app,
        examples=("ovseg app --model models/ovseg-swin-b --examples photos",),
    ),
    Subcommand(
        name="explain",
        group="segment",
        summary="say which mined pairs are behind a label",
        function=explain,
        examples=("ovseg explain photo.jpg --classes sled dog --at 120 80 --model models/demo --index models/index",),
    ),
    Subcommand(
        name="memory add",
        group="segment",
        summary="let a segmenter know a class by a few masks of it, without training",
        function=memory_add,
        examples=(
            "ovseg memory add mug --model models/demo --memory mine.safetensors --images mug.jpg --masks mug.png",
            "ovseg memory add sled --model models/demo --memory mine.safetensors --pairs runs/pairs/demo-0123456789ab",
        ),
    ),
    Subcommand(
        name="memory remove",
        group="segment",
        summary="take masks or classes out of a memory",
        function=memory_remove,
        examples=("ovseg memory remove mug --memory mine.safetensors",),
    ),
    Subcommand(
        name="memory show",
        group="segment",
        summary="list the masks of a memory",
        function=memory_show,
        examples=("ovseg memory show --memory mine.safetensors",),
    ),
    Subcommand(
        name="import-checkpoint",
        group="segment",
        summary="turn a published checkpoint of OVSeg, MaskFormer or CLIP into the folder of a segmenter",
        function=import_checkpoint,
        examples=("ovseg import-checkpoint ovseg_swinbase_vitL14_ft_mpt.pth --out models/ovseg-swin-b",),
    ),
    Subcommand(
        name="export-checkpoint",
        group="segment",
        summary="write the folder of a segmenter as a checkpoint in OVSeg's published layout",
        function=export_checkpoint,
        examples=("ovseg export-checkpoint models/ovseg-swin-b --out ovseg.pth",),
    ),
    Subcommand(
        name="pairs filter",
        group="pairs",
        summary="choose a subset of mined pairs, without any model",
        function=filter_pairs,
        examples=(
            "ovseg pairs filter runs/pairs/demo-0123456789ab --out fewer --min-score 0.25 --max-per-noun 500",
            "ovseg pairs filter runs/pairs/demo-0123456789ab --out birds --nouns bird penguin owl",
            "ovseg pairs filter runs/pairs/demo-0123456789ab --out trusted --keep-share 0.5",
        ),
    ),
    Subcommand(
        name="pairs signs",
        group="pairs",
        summary="find what speaks for and against each pair, without any model",
        function=pair_signs,
        examples=("ovseg pairs signs runs/pairs/demo-0123456789ab",),
    ),
    Subcommand(
        name="pairs negatives",
        group="pairs",
        summary="find nouns that pictures surely do not show, without any model",
        function=pair_negatives,
        examples=("ovseg pairs negatives runs/pairs/demo-0123456789ab --per-picture 8",),
    ),
    Subcommand(
        name="pairs card",
        group="pairs",
        summary="make the data card of pairs",
        function=pairs_card,
        examples=("ovseg pairs card runs/pairs/demo-0123456789ab",),
    ),
    Subcommand(
        name="pairs audit",
        group="pairs",
        summary="look at pairs one by one in the browser, and learn how many are right",
        function=audit_pairs,
        examples=(
            "ovseg pairs audit runs/pairs/demo-0123456789ab --count 200",
            "ovseg pairs audit runs/pairs/demo-0123456789ab --summary",
        ),
    ),
    Subcommand(
        name="pairs index",
        group="pairs",
        summary="make the index by which 'ovseg explain' finds pairs",
        function=index_pairs,
        examples=("ovseg pairs index runs/pairs/demo-0123456789ab --model models/demo --out models/index",),
    ),
    Subcommand(
        name="pairs export",
        group="pairs",
        summary="write pairs as COCO or LVIS instances, YOLO's polygons, a folder for the Hub, or CSV",
        function=export_pairs,
        examples=(
            "ovseg pairs export runs/pairs/demo-0123456789ab --to coco --out pairs-coco",
            "ovseg pairs export runs/pairs/demo-0123456789ab --to hub --out tables --without-pictures",
        ),
    ),
    Subcommand(
        name="pairs import",
        group="pairs",
        summary="make pairs of a COCO file with masks",
        function=import_pairs,
        examples=("ovseg pairs import pairs-coco/annotations/instances_pairs.json --out pairs",),
    ),
    Subcommand(
        name="status",
        group="results",
        summary="show which units of which artifacts are complete, stale, missing or corrupt, and why",
        function=status,
        examples=(
            "ovseg status --config flows/configs/demo.toml",
            "ovseg status runs --json",
        ),
    ),
)

SUBCOMMANDS = tuple(sorted(_LISTED, key=lambda listed: _PLACES.get(listed.name, len(_PLACES))))
