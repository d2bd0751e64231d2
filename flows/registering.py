"""Flows as deployments of Prefect's server: what settings say, without undoing what a person said there.

Whether a deployment is paused is Prefect's to know. So are its schedules: the one that is by settings bears a name that says
what settings said, and is left as it is, or as a person has changed it, until settings say something else.
"""

import datetime
import logging
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any
from uuid import UUID

from prefect import Flow
from prefect._internal.versioning import VersionType
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
from prefect.client.schemas.schedules import CronSchedule, IntervalSchedule
from prefect.deployments.runner import RunnerDeployment
from prefect.exceptions import ObjectNotFound
from prefect.runner import Runner
from prefect.types.entrypoint import EntrypointType

from schedules.foresight.cadence import ONE_AT_A_TIME, Cadence

DEPLOYMENT = "firsttoken"
ONE = ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW)
"""A run that comes while another is at work is cancelled, and says so."""
_OF_SETTINGS = "settings-"

_log = logging.getLogger(__name__)


def tags_of(flow: str) -> list[str]:
    """What its deployments, and so their runs, are found by."""
    return [DEPLOYMENT, *(["foresight"] if flow in ONE_AT_A_TIME else [])]


async def register(
    runner: Runner, client: PrefectClient, flow: Flow[..., Any], cadence: Cadence, parameters: Mapping[str, Any]
) -> None:
    """Have the flow's deployment be there, its runs with these parameters by default, and `runner` run what is due of it."""
    name = f"{flow.name}/{DEPLOYMENT}"
    try:
        known = await client.read_deployment_by_name(name)
    except ObjectNotFound:
        known = None
    paused, told = known is not None and known.paused, known is None or DEPLOYMENT in known.tags
    identity = await runner.aadd_deployment(await deployment_of(flow, cadence, parameters, paused=paused))
    await _schedule(client, identity, name, cadence, all_ours=not told)


async def deployment_of(
    flow: Flow[..., Any], cadence: Cadence, parameters: Mapping[str, Any], *, paused: bool
) -> RunnerDeployment:
    """Without its schedules."""
    deployment = await flow.ato_deployment(
        name=DEPLOYMENT,
        parameters=dict(parameters),
        paused=paused,
        tags=tags_of(cadence.flow),
        version=version("firsttoken"),
        version_type=VersionType.SIMPLE,
        concurrency_limit=ONE if cadence.flow in ONE_AT_A_TIME else None,
        entrypoint_type=EntrypointType.MODULE_PATH,
    )
    deployment.model_fields_set.discard("schedules")  # an update says only what is set, and would take them all away
    return deployment


async def _schedule(client: PrefectClient, identity: UUID, name: str, cadence: Cadence, *, all_ours: bool) -> None:
    """Have the schedule be there that is by settings, unless a person has put others in its place. With `all_ours` none is a
    person's: versions that did not tag their deployments made all schedules anew whenever they started."""
    known = await client.read_deployment_schedules(identity)
    if any(schedule.slug == cadence.slug for schedule in known):
        return
    ours = [schedule for schedule in known if all_ours or (schedule.slug or "").startswith(_OF_SETTINGS)]
    if known and not ours:
        _log.info("%s runs as its schedules in Prefect say, whatever settings do", name)
        return
    for schedule in ours:
        await client.delete_deployment_schedule(identity, schedule.id)
    if cadence.slug:
        await client.create_deployment_schedules(identity, [schedule_of(cadence)])


def schedule_of(cadence: Cadence) -> DeploymentScheduleCreate:
    """Active. ValueError for one that runs only when asked."""
    if cadence.every_s is not None:
        every = IntervalSchedule(interval=datetime.timedelta(seconds=cadence.every_s))
        return DeploymentScheduleCreate(schedule=every, active=True, slug=cadence.slug)
    return DeploymentScheduleCreate(schedule=CronSchedule(cron=cadence.cron or ""), active=True, slug=cadence.slug)
