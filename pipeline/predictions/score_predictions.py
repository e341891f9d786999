"""Stage 4 for another model: scores predictions that lie in files by the protocol of our own.

Reads ``scenes`` and files; writes ``scores``. No net takes part.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from ovseg_models.label_counts import count_labels
from pipeline.evaluate.labelled_images import NO_LABEL, FailedImage, LabelledImage
from pipeline.evaluate.protocol import NUMBERS
from pipeline.evaluate.score import SCORE_BYTES, check_labels, labelled_scenes_of, scores_attributes
from pipeline.evaluate.variants import PREDICTIONS, Variant
from pipeline.graph import Node, ParameterCounts, Step
from pipeline.import_masks.sources import MaskFiles
from pipeline.ordered_threads import use_threads
from pipeline.predictions.label_files import (
    OUTSIDE,
    Numbering,
    Numbers,
    PredictedMaps,
    PredictedScenes,
    classes_of,
    prediction_files,
    require_label_maps,
)
from pipeline.prepare.label_maps import encode_png, index_dtype
from pipeline.settings import ComputeSettings, EvaluatedDatasetSettings, PredictionsSettings, result_settings
from pipeline.shard_runner import Execution, StageReport
from pipeline.stage_names import StageName
from pipeline.worker_device import WorkerCompute
from storage_schemas import scores
from storage_schemas.artifact import Artifact
from storage_schemas.digests import Json
from storage_schemas.manifest import Sidecar
from storage_schemas.scores import ImageCounts, ScoreShardWriter


@dataclass(frozen=True, kw_only=True)
class ScorePredictions(Step):
    """Scores predictions of another model on one data set.

    Attributes:
        dataset: The data set, with where its predictions are.
    """

    dataset: EvaluatedDatasetSettings
    compute: ComputeSettings

    kind = scores.KIND
    schema_version = scores.SCHEMA_VERSION
    producer_version = 2
    stage: StageName = "evaluate"
    tolerated = frozenset({NO_LABEL})
    computes = False
    labels_of = ("scenes",)

    @property
    def variants(self) -> tuple[Variant, ...]:
        """The one way in which these predictions were made."""
        return (Variant(name=PREDICTIONS, section="main"),)

    @property
    def predictions(self) -> PredictionsSettings:
        """Where they are, and what they are.

        Raises:
            ValueError: If the data set has none.
        """
        if self.dataset.predictions is None:
            raise ValueError(f"ScorePredictions: {self.dataset.dataset} has no predictions; score it by Score")
        return self.dataset.predictions

    @cached_property
    def files(self) -> MaskFiles:
        """The files, found when they are first asked for."""
        return prediction_files(self.predictions)

    def check(self, node: Node) -> None:
        """Check that there are labels, and files of a known kind.

        Raises:
            SettingsError: If no scene has a labelled pixel.
            MaskSourceError: If there are no files.
            PipelineError: If they are no label maps.
        """
        check_labels(node, self.dataset)
        require_label_maps(self.files)

    def fingerprint(self, node: Node) -> Mapping[str, Json]:
        """Return what numbers mean, and the digests of the files.

        Raises:
            MaskSourceError: If there are no files, or it cannot be found out what they are.
        """
        digest: Mapping[str, Json] = self.files.digest(node.runs.absolute() / ".data_sets")
        return {"predictions": {**result_settings(self.predictions), "format": self.files.format}, "data": digest}

    def attributes(self, node: Node) -> Mapping[str, Json]:
        """Return the classes and the variant."""
        return scores_attributes(node, self.dataset, self.variants)

    def job(self, node: Node) -> "ScorePredictionsJob":
        """Return what scores a shard, once it is known what numbers mean."""
        predicted = PredictedScenes(labelled_scenes_of(node), self.predictions)
        return ScorePredictionsJob(predicted, predicted.numbering(), WorkerCompute.of(self.compute))

    def make(self, node: Node, execution: Execution) -> StageReport:
        """Score the predictions.

        Raises:
            PipelineError: If numbers are no classes, a file cannot be used at all, or none is of a scene.
        """
        self.check(node)
        if self.predictions.numbers != "auto" and node.artifact.status().todo:
            # Raises once what every unit would raise; to find out what numbers mean, files are opened anyway.
            PredictedScenes(labelled_scenes_of(node), self.predictions).open()
        return super().make(node, execution)

    def size_bytes(self, counts: ParameterCounts, scenes: int) -> int:
        """Estimate from COCO's pictures."""
        del counts
        return scenes * SCORE_BYTES


@dataclass(frozen=True, slots=True)
class ScorePredictionsJob:
    """Reads the prediction of each scene, and counts pixels.

    Attributes:
        predicted: The scenes, and where their predictions are.
        numbering: What the numbers of predictions mean.
    """

    predicted: PredictedScenes
    numbering: Numbering
    compute: WorkerCompute

    def open(self) -> PredictedMaps:
        """Find out which file is of which scene."""
        use_threads(self.compute.decode_threads, processes=self.compute.processes)
        return self.predicted.open()

    def run(self, state: PredictedMaps, artifact: Artifact, unit: str) -> Sidecar:
        """Make one shard."""
        readers = state.readers(unit)
        with artifact.write_unit(unit) as unit_writer:
            writer = ScoreShardWriter(unit_writer, self.predicted.scenes.class_count)
            for scene in self.predicted.scenes.of_unit(unit):
                failed = scene if isinstance(scene, FailedImage) else self._add(scene, readers[scene.key](), writer)
                if failed is not None:
                    writer.add_failed(PREDICTIONS, failed.key, failed.status, failed.reason)
            return writer.commit({NUMBERS: self.numbering.kind})

    def _add(
        self, scene: LabelledImage, numbers: Numbers | FailedImage, writer: ScoreShardWriter
    ) -> FailedImage | None:
        """Add what is counted of a scene, or say why that is not possible."""
        if isinstance(numbers, FailedImage):
            return numbers
        class_count, ignore_label = self.predicted.scenes.class_count, self.predicted.scenes.ignore_label
        try:
            classes = classes_of(numbers, self.numbering, ignore_label)
        except ValueError as error:
            return FailedImage(scene.key, OUTSIDE, str(error))
        counts = count_labels(scene.labels, classes, class_count=class_count, ignore_label=ignore_label)
        png = encode_png(classes.astype(index_dtype(ignore_label)))
        writer.add(PREDICTIONS, scene.key, ImageCounts(**vars(counts)), prediction_png=png)
        return None
