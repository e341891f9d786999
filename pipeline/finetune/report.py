"""The model card of an adapted CLIP: what it was made of and how, what came of it, and the curves of its training."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ovseg_models.mask_adapted_clip import MaskAdaptedClip
from ovseg_models.weights import image_tower_weights, text_tower_weights, weights_digest
from pipeline.charts import Panel, Points, training_curves
from pipeline.clip_loading import LoadedClip
from pipeline.finetune.phases import Phase
from pipeline.graph import Node
from pipeline.training.metrics_log import read_metrics
from pipeline.visible_text import visible
from storage_schemas.artifact import Artifact
from storage_schemas.checkpoints import REPORT
from storage_schemas.columns import OK
from storage_schemas.digests import Json, canonical_json
from storage_schemas.manifest import Sidecar
from storage_schemas.pair_collection import Pairs

_TAIL_STEPS, _TAIL_SHARE = 20, 4  # the last loss is averaged over so many steps, but at most a quarter of them


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """A finished training.

    Attributes:
        artifact: Held for writing; its metrics lie in ``_local``.
        phases: What was trained after what.
        pairs: On which.
        before: Accuracies of stock CLIP on the validation scenes; empty without.
    """

    artifact: Artifact
    phases: tuple[Phase, ...]
    pairs: Pairs
    before: Mapping[str, float]

    def metrics(self, phase: Phase, group: str) -> list[dict[str, Any]]:
        """Return the lines of a phase's metrics."""
        return read_metrics(self.artifact.local_directory / phase.run / "metrics.jsonl", group)


def write_report(training: Training, node: Node, base: LoadedClip, adapted: MaskAdaptedClip) -> Sidecar:
    """Write ``report.md`` and ``report.curves.png`` as one unit, with the card as facts of its sidecar.

    Args:
        training: What was done.
        node: What was read.
        base: The CLIP before.
        adapted: The CLIP after.

    Raises:
        WriteError: If the operating system refuses.
    """
    card = _card(training, node, base, adapted)
    with training.artifact.write_unit(REPORT) as unit:
        unit.file("md").write(visible(_markdown(card)).encode())
        unit.file("curves.png").write(_curves(training))
        rows = sum(phase["steps"] for phase in card["phases"])
        return unit.commit(rows=rows, counts={OK: rows}, facts=card)


def _card(training: Training, node: Node, base: LoadedClip, adapted: MaskAdaptedClip) -> dict[str, Any]:
    """Collect what the card says, as JSON."""
    identity = training.artifact.identity
    pairs, validation = node["pairs"], node.get("validation")
    nouns = training.pairs.nouns
    prompts = 0 if adapted.mask_prompts is None else adapted.mask_prompts.numel()
    parameters = sum(parameter.numel() for parameter in adapted.clip.parameters())
    towers = {
        name: {"before": weights_digest(weights(base.clip)), "after": weights_digest(weights(adapted.clip))}
        for name, weights in (("image tower", image_tower_weights), ("text tower", text_tower_weights))
    }
    phases: list[dict[str, Json]] = []
    for phase in training.phases:
        steps = training.metrics(phase, "train")
        tail = steps[-max(1, min(_TAIL_STEPS, len(steps) // _TAIL_SHARE)) :]
        validations = training.metrics(phase, "validation")
        phases.append(
            {
                "mode": phase.mode,
                "steps": len(steps),
                "batch_pairs": phase.settings.batch_pairs,
                "epochs": phase.settings.epochs,
                "first_loss": steps[0]["loss"],
                "last_loss": sum(line["loss"] for line in tail) / len(tail),
                "last_loss_steps": len(tail),
                "validation": [
                    {name: value for name, value in line.items() if name != "group"} for line in validations
                ],
            }
        )
    return {
        "name": identity.name,
        "options": identity.settings["options"],
        "clip_digest": base.digest,
        "pairs": {"name": pairs.artifact.identity.name, "digest": pairs.digest(), "pairs": len(training.pairs)},
        "nouns": len(nouns),
        "validation": "" if validation is None else validation.artifact.identity.name,
        "validation_digest": "" if validation is None else validation.digest(),
        "clip_parameters": parameters,
        "prompt_parameters": prompts,
        "logit_scale": {"before": base.clip.logit_scale.item(), "after": adapted.logit_scale.item()},
        **(
            {"logit_bias": {"before": base.clip.logit_bias.item(), "after": adapted.logit_bias.item()}}
            if adapted.logit_bias is not None
            else {}
        ),
        "towers": towers,
        "before": dict(training.before),
        "phases": phases,
    }


def _markdown(card: Mapping[str, Any]) -> str:
    """Write the card as a page."""
    pairs = card["pairs"]
    made_of = (
        f"CLIP with weights `{card['clip_digest'][:12]}`, adapted to {pairs['pairs']:,} masked crops with "
        f"{card['nouns']:,} nouns (pairs `{pairs['name']}`, digest `{pairs['digest'][:12]}`)."
    )
    if card["options"].get("blank_patches") == "dropped":
        made_of += (
            " Tokens of patches without a mask pixel are dropped, in training and wherever this CLIP is used; with "
            "them it names regions otherwise."
        )
    lines = [
        f"# Adapted CLIP `{card['name']}`",
        "",
        made_of,
        "",
        "| part | parameters | before | after |",
        "|---|---|---|---|",
    ]
    for name, digests in card["towers"].items():
        same = "unchanged" if digests["before"] == digests["after"] else f"`{digests['after'][:12]}`"
        lines.append(f"| {name} | | `{digests['before'][:12]}` | {same} |")
    scale = card["logit_scale"]
    lines.append(f"| logit scale | 1 | {scale['before']:.4f} | {scale['after']:.4f} |")
    if "logit_bias" in card:
        lines.append(f"| logit bias | 1 | {card['logit_bias']['before']:.4f} | {card['logit_bias']['after']:.4f} |")
    if card["prompt_parameters"]:
        share = card["prompt_parameters"] / card["clip_parameters"]
        lines.append(f"| mask prompts | {card['prompt_parameters']:,} ({share:.2%} of CLIP) | none | trained |")
    lines += ["", "## Training", "", "| phase | mode | epochs | steps | pairs a step | first loss | last loss |"]
    lines.append("|---|---|---|---|---|---|---|")
    for number, phase in enumerate(card["phases"], start=1):
        numbers = " | ".join(str(phase[name]) for name in ("epochs", "steps", "batch_pairs"))
        last = f"{phase['last_loss']:.3f} (mean of {phase['last_loss_steps']})"
        lines.append(f"| {number} | {phase['mode']} | {numbers} | {phase['first_loss']:.3f} | {last} |")
    if card["before"]:
        names = list(card["before"])
        rows = [("before", card["before"])]
        for number, phase in enumerate(card["phases"], start=1):
            rows += [(f"phase {number}, step {line['step']}", line) for line in phase["validation"]]
        lines += ["", f"## Zero-shot accuracy on masked regions of `{card['validation']}`", ""]
        lines += [f"| | {' | '.join(names)} |", f"|---|{'---|' * len(names)}"]
        lines += [f"| {row} | {' | '.join(f'{100 * values[name]:.1f} %' for name in names)} |" for row, values in rows]
    lines += ["", "![Curves](report.curves.png)", "", "## Settings that decide the weights", "", "```json"]
    lines += [canonical_json(card["options"]).decode(), "```", ""]
    return "\n".join(lines)


def _curves(training: Training) -> bytes:
    """Draw losses and accuracies over the steps of all phases."""
    panels, first = [], 0
    shown = [name for name in training.before if name != "top5"]
    accuracy: dict[str, list[tuple[float, float]]] = {name: [(0, 100 * training.before[name])] for name in shown}
    for phase in training.phases:
        lines = training.metrics(phase, "train")
        loss: Points = [(line["step"], line["loss"]) for line in lines]
        panels.append(
            Panel(f"phase {phase.number}, {phase.mode}: contrastive loss", {"loss": loss}, "loss", noisy=True)
        )
        for line in training.metrics(phase, "validation"):
            for name, points in accuracy.items():
                points.append((first + line["step"], 100 * line[name]))
        first += len(lines)
    if accuracy:
        named = {name.replace("macro_", "").replace("macro", "all classes"): line for name, line in accuracy.items()}
        title = "zero-shot accuracy on masked regions, over the steps of all phases"
        panels.append(Panel(title, named, "accuracy [%]"))
    return training_curves(panels)
