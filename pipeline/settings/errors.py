"""The error of wrong settings: every fault at once, one per line."""

from collections.abc import Sequence

from pipeline.errors import PipelineError


class SettingsError(PipelineError):
    """The settings cannot be used; the message has one line per fault.

    Attributes:
        faults: Each as ``file: key: what (got value)``, or ``file: what`` where no single key is at fault.
    """

    def __init__(self, faults: Sequence[str]) -> None:
        self.faults = tuple(faults)
        super().__init__("\n".join(self.faults))

    def __reduce__(self) -> tuple[type["SettingsError"], tuple[tuple[str, ...]]]:
        """Travel between processes with the faults, not with the message that is made of them."""
        return type(self), (self.faults,)
