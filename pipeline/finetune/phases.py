"""What is trained after what in stage 3: each phase is a training run of its own."""

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.settings import FinetuneSettings, PhaseSettings
from pipeline.training.data_order import DataOrder, torch_seed
from pipeline.training.learning_rates import Rate, Schedule, warmup_cosine


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """One training run.

    Attributes:
        number: Its place among the phases, from 1.
        run: Name of the run's directory: what was trained up to here, so that no two orders of phases share one.
        mode: What it trains, parts with ``+`` between.
        uses_prompts: Whether CLIP sees prompts in place of masked patches: once a phase trains them, it does in that
            phase and in all later ones.
        settings: Batch, epochs and warm-up.
        tower: How image tower and logit scale learn.
        prompts: How the prompts learn.
        psm: How the weights of sentences learn.
        text: How tokens before names learn.
        text_length: Tokens before a name.
        query: How queries of mask tokens learn.
        seed: What decides data order and augmentation.
    """

    number: int
    run: str
    mode: str
    uses_prompts: bool
    settings: PhaseSettings
    tower: Rate
    prompts: Rate
    psm: Rate
    text: Rate
    text_length: int
    query: Rate
    seed: int

    @property
    def parts(self) -> tuple[str, ...]:
        """What it trains: ``"ft"`` for the image tower, ``"mpt"`` for prompts, the others for the text side."""
        return tuple(self.mode.split("+"))

    def order(self, pairs: int) -> DataOrder:
        """Return which pairs a step sees; an epoch leaves out those that don't fill a batch.

        Raises:
            ValueError: If the pairs don't fill one batch.
        """
        return DataOrder(pairs, self.settings.batch_pairs, self.seed, drop_last=True)

    def steps(self, pairs: int) -> int:
        """Return the optimizer steps of the run."""
        return self.settings.epochs * self.order(pairs).steps_per_epoch

    def schedule(self, pairs: int) -> Schedule:
        """Return the factor on the learning rates; a run shorter than its warm-up ends within it."""
        return warmup_cosine(steps=self.steps(pairs), warmup_steps=self.settings.warmup_steps)


def phases_of(settings: FinetuneSettings, modes: Sequence[str] | None = None) -> tuple[Phase, ...]:
    """Return the phases that settings ask for.

    Args:
        settings: Of stage 3.
        modes: What to train after what, in place of the settings' mode; for experiments.
    """
    names = settings.phases if modes is None else tuple(modes)
    phases = []
    for number, name in enumerate(names, start=1):
        section = {"mpt": settings.mpt, "psm": settings.psm, "text": settings.text, "query": settings.query}.get(
            name, settings.ft
        )
        phases.append(
            Phase(
                number=number,
                run="-then-".join(names[:number]),
                mode=name,
                uses_prompts=any("mpt" in earlier for earlier in names[:number]),
                settings=section,
                tower=Rate(section.learning_rate, section.weight_decay),
                prompts=Rate(settings.mpt.learning_rate, settings.mpt.weight_decay),
                psm=Rate(settings.psm.learning_rate, settings.psm.weight_decay),
                text=Rate(settings.text.learning_rate, settings.text.weight_decay),
                text_length=settings.text.length,
                query=Rate(settings.query.learning_rate, settings.query.weight_decay),
                seed=torch_seed(settings.seed, "phase", number),
            )
        )
    return tuple(phases)
