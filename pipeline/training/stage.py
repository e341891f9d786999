"""A training as a stage: processes join, missing inputs are made, one process holds the artifact, a report is left."""

import contextlib
import logging
import time
from collections.abc import Callable

from pipeline.graph import Node
from pipeline.settings import ComputeSettings, writable_runs_dir
from pipeline.shard_runner import Execution, StageReport
from pipeline.training.processes import Processes, joined

logger = logging.getLogger(__name__)


def run_training(
    node: Node, compute: ComputeSettings, execution: Execution, train: Callable[[Processes], None]
) -> StageReport:
    """Train what a node describes, as far as that is not complete.

    Scenes that are missing are prepared first. Started by ``torchrun``, all its processes train together; the first
    makes inputs and writes.

    Args:
        node: What, and from what.
        execution: How missing scenes are prepared.
        train: Trains to the last step and finishes the artifact, which the first process holds for writing.

    Raises:
        MissingInputError: If an input that is not made on demand is missing.
        HeldError: If another process holds the artifact.
        WriteError: If the artifact's directory cannot be written to.
    """
    started = time.monotonic()
    with joined(compute.device, compute.threads_per_worker, deterministic=compute.deterministic) as processes:
        if processes.is_first:
            node.make_inputs(execution)
        processes.wait()  # hours, where a large data set is prepared
        artifact = node.artifact
        todo = 0
        if processes.is_first:
            status = artifact.status()
            # At least 1 where the artifact is not finished, such as one that lacks its manifest alone.
            todo = 0 if status.finished else max(1, len(status.todo))
        todo = processes.from_first(todo)  # the others might read the state after the first has begun to write
        if todo:
            with contextlib.ExitStack() as held:
                if processes.is_first:
                    writable_runs_dir(node.runs)
                    held.enter_context(artifact.writing(wait_s=compute.wait_s))
                processes.wait()  # a run that is refused ends here
                train(processes)
                processes.wait()
        elif processes.is_first:
            logger.info("%s %s: already complete", node.step.kind, node.name)
    units = len(artifact.description.units)
    return execution.noted(StageReport(artifact, artifact.manifest(), todo, units - todo, time.monotonic() - started))
