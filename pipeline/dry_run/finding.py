"""Something that a run needs and that is not here."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found of one setting.

    Attributes:
        where: The setting.
        text: What was found and what to do.
        is_missing: The run would stop there; otherwise it helps itself.
    """

    where: str
    text: str
    is_missing: bool
