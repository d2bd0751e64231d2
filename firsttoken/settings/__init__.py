"""Settings: read once, at the entry point, into one frozen value."""

from firsttoken.settings.sections import FrontendSettings, ModelSettings, Settings, sections, setting_names
from firsttoken.settings.sources import ENVIRONMENT_PREFIX, environment_name, load_settings, write_settings

__all__ = [
    "ENVIRONMENT_PREFIX",
    "FrontendSettings",
    "ModelSettings",
    "Settings",
    "environment_name",
    "load_settings",
    "sections",
    "setting_names",
    "write_settings",
]
