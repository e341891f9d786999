"""Settings of a run: the models, how they are loaded, and which of them enter a digest."""

from pipeline.settings.directories import writable_runs_dir
from pipeline.settings.errors import SettingsError
from pipeline.settings.loading import check_references, load_settings, settings_json, settings_toml
from pipeline.settings.result import result_settings
from pipeline.settings.root import Settings

__all__ = [
    "Settings",
    "SettingsError",
    "check_references",
    "load_settings",
    "result_settings",
    "settings_json",
    "settings_toml",
    "writable_runs_dir",
]
