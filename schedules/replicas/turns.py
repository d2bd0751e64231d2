"""Who may be asked to make room for whom: the idle at once, the busy once they have had their turn."""

from collections.abc import Iterable, Iterator
from typing import overload

from schedules.lifecycle import State
from schedules.limits import SHORTEST_TURN_S, TURN_STARTS
from schedules.placing.decision import Leaving, Listed, Running, Standing
from schedules.replicas.idle import Idle
from schedules.service import Replica, Service


class Up(Standing):
    """The replicas that are up, as a start of `service` sees them; made when it looks, for most starts do not.

    Those that are `idle` may make room, if the start is `asked_for` by somebody, or more important; and those of `had`. If it
    is told that it is `now_s`, those that may go on elsewhere do so. A start that nobody asks for may have the room of those
    that are worth less than `under`.
    """

    def __init__(
        self,
        replicas: Iterable[Replica],
        idle: Idle,
        service: Service,
        asked_for: bool,
        had: frozenset[str] = frozenset(),
        now_s: float | None = None,
        under: float = 0.0,
    ) -> None:
        ours = service.objectives.priority
        self._replicas, self._idle, self._had = replicas, idle, had
        self._now_s = now_s
        self._most, self._under = ours if asked_for or under > 0.0 else ours - 1, under
        self._made: list[Running] | None = None

    def __len__(self) -> int:
        return len(self._all)

    def __iter__(self) -> Iterator[Running]:
        return iter(self._all)

    @overload
    def __getitem__(self, index: int) -> Running: ...

    @overload
    def __getitem__(self, index: slice) -> list[Running]: ...

    def __getitem__(self, index: int | slice) -> Running | list[Running]:
        return self._all[index]

    @property
    def stoppable(self) -> Leaving:
        if self._had or self._under > 0.0:
            return Listed([running for running in self._all if running.may_stop])
        return self._idle.up_to(self._most)

    @property
    def _all(self) -> list[Running]:
        if self._made is None:
            most, had, under = self._most, self._had, self._under
            self._made = [
                replica.running(
                    (
                        not replica.requests
                        and replica.service.objectives.priority <= most
                        and replica.idle
                        and (not under or (replica.service.worth < under and not replica.service.is_kept))
                    )
                    or replica.group in had,
                    self._now_s is not None and replica.may_move(self._now_s),
                )
                for replica in self._replicas
                if replica.state is State.SERVING
            ]
        return self._made


def turns_over_s(replicas: Iterable[Replica], service: Service) -> dict[str, float]:
    """When those that `service` may ask for their room have had their turn, by group."""
    return {
        replica.group: replica.since_s + max(SHORTEST_TURN_S, TURN_STARTS * replica.service.last_start_s)
        for replica in replicas
        if replica.state is State.SERVING
        and replica.heir_of is None
        and replica.service is not service
        and replica.service.objectives.priority <= service.objectives.priority
    }


def something_ends(replicas: Iterable[Replica], service: Service) -> bool:
    """Whether replicas that are no more important have only begun, or are about to end."""
    return any(
        replica.state in (State.STARTING, State.DRAINING, State.STOPPING)
        and replica.service.objectives.priority <= service.objectives.priority
        for replica in replicas
    )
