"""Every method of forecasting that there is: ours, the baselines, and those of another package."""

from collections.abc import Mapping
from types import MappingProxyType

from flows.foreseeing.statsforecast import INTERMITTENT
from schedules.foresight.forecast import Forecaster
from schedules.foresight.forecasters import FORECASTERS

METHODS: Mapping[str, Forecaster] = MappingProxyType({**FORECASTERS, **INTERMITTENT})
"""By the names that people call them; the last ones say what they need where it is not installed."""
