"""Arguments that several subcommands take."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

if TYPE_CHECKING:
    from pipeline.settings import Settings

Overrides = Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(name="set", metavar="KEY=VALUE")]
"""Settings that take the place of the file's, by their dotted names; may be given many times."""

DEMO_CONFIG = Path(__file__).parent / "configs" / "demo.toml"


@dataclass(frozen=True, kw_only=True)
class RunArguments:
    """Where the settings of a run come from."""

    config: Annotated[
        Path, tyro.conf.arg(metavar="FILE", help_behavior_hint="(default: the demo's, configs/demo.toml)")
    ] = DEMO_CONFIG
    """Settings file (TOML), such as flows/configs/demo.toml."""
    overrides: Overrides = ()
    """Setting that takes the place of the file's, such as mine.pair.min_score=0.2; may be given many times."""

    def settings(self) -> "Settings":
        """Load the settings.

        Raises:
            SettingsError: If anything is wrong with them.
        """
        from pipeline.settings import load_settings

        return load_settings(self.config, self.overrides)
