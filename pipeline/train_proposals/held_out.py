"""Classes that the proposal net must not learn: their indices, and whether they are classes of the data set at all."""

from pipeline.prepare.sources import open_source
from pipeline.settings import Settings, SettingsError


def check_held_out(settings: Settings) -> None:
    """Check the names of held-out classes; the data set tells its classes before any scene of it is made.

    Raises:
        SettingsError: If a name is no class of the data set, or no class is left.
        LayoutError: If the data set's directory does not look as its layout says.
    """
    section = settings.proposal_net
    if section.held_out_classes and section.dataset in settings.datasets:
        vocabulary = open_source(settings.datasets[section.dataset]).vocabulary
        held_out_indices(section.held_out_classes, vocabulary.class_names)


def held_out_indices(names: tuple[str, ...], class_names: tuple[str, ...]) -> tuple[int, ...]:
    """Return the indices of the held-out classes, ascending.

    Raises:
        SettingsError: If one is no class of the scenes, or none is left.
    """
    unknown = [name for name in names if name not in class_names]
    if unknown:
        message = f"proposal_net.held_out_classes: {unknown} are none of the {len(class_names)} classes of the scenes"
        raise SettingsError([f"{message}; correct the names"])
    held_out = tuple(sorted({class_names.index(name) for name in names}))
    if len(held_out) == len(class_names):
        message = f"proposal_net.held_out_classes: all {len(class_names)} classes are held out; leave one to learn"
        raise SettingsError([message])
    return held_out
