"""Methods of forecasting, each behind `Forecaster`, by the names that people call them."""

from collections.abc import Mapping
from types import MappingProxyType

from schedules.foresight.forecast import Forecaster
from schedules.foresight.forecasters.chosen import Chosen, Mixed
from schedules.foresight.forecasters.daily import Daily
from schedules.foresight.forecasters.hybrid_histogram import HybridHistogram
from schedules.foresight.forecasters.keep_alive import KeepAlive
from schedules.foresight.forecasters.poisson import Poisson
from schedules.foresight.forecasters.renewal import Renewal
from schedules.foresight.forecasters.seasonal_naive import SeasonalNaive
from schedules.foresight.forecasters.timer import Timer
from schedules.foresight.forecasters.tsb import Tsb
from schedules.foresight.forecasters.warmserve import WarmServe

OURS: tuple[Forecaster, ...] = (Renewal(), Daily(), Timer())
BASELINES: tuple[Forecaster, ...] = (KeepAlive(), HybridHistogram(), WarmServe(), SeasonalNaive(), Tsb(), Poisson())
MIXED = Mixed(OURS)
CHOSEN = Chosen(MIXED, BASELINES)
FORECASTERS: Mapping[str, Forecaster] = MappingProxyType(
    {method.name: method for method in (*BASELINES, *OURS, MIXED, CHOSEN)}
)
DEFAULT = CHOSEN.name
