"""Classes that the proposal net must not learn: their indices."""

from pipeline.settings import SettingsError


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
