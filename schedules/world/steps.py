"""Requests at the groups of the world: who is where, and the steps that give them their tokens."""

from collections.abc import Callable, Mapping, Sequence

from schedules.events import RequestBroke, RequestProgressed, RequestRefused
from schedules.facts import Placement, StagePlan
from schedules.world.agenda import Agenda
from schedules.world.groups import Ask, WorldGroup
from schedules.world.habits import Habits
from schedules.world.happenings import CaughtUp, Happening, Told, Yielded
from schedules.world.loads import Loads, Way

OnAnswer = Callable[[WorldGroup, float], None]
"""Told of a group that has given its first tokens, and what time it is."""


class Steps:
    """Of the groups of the world, which are those in `groups` as long as they are there."""

    def __init__(
        self,
        groups: Mapping[str, WorldGroup],
        loads: Loads,
        agenda: Agenda[Happening],
        on_answer: OnAnswer,
        habits: Habits,
    ) -> None:
        self._groups, self._loads, self._agenda, self._on_answer = groups, loads, agenda, on_answer
        self._hop_s, self._step_s, self._cores = habits.hop_s, habits.step_s, habits.cores
        self._at: dict[str, WorldGroup] = {}

    # ---- orders

    def run(self, name: str, ask: Ask, now_s: float) -> None:
        """See the world."""
        group = self._find(name, ask, now_s)
        if group is None:
            return
        if group.batch.submit(ask):
            self._arrive(group, ask)
            if group.batch.lets_in:
                self._stir(group, now_s)
        else:
            wanted = ask.prompt_tokens + ask.max_tokens
            self._refuse(
                ask, name, f"it has {group.placement.kv_tokens} tokens of KV cache, and {wanted} are wanted", now_s
            )

    def follow(self, name: str, ask: Ask, copy_of: str, now_s: float) -> None:
        """See the world."""
        group = self._find(name, ask, now_s)
        if group is None:
            return
        if not group.batch.follow(ask):
            self._refuse(ask, name, f"it has no room for {ask.prompt_tokens + ask.max_tokens} tokens now", now_s)
            return
        self._arrive(group, ask)
        giver = self._at.get(copy_of)
        there = giver.batch.ask(copy_of) if giver is not None else None
        has = 0 if there is None else ask.prompt_tokens if there.prefilled else there.taken
        tokens = min(ask.prompt_tokens - 1, has)
        if giver is None or tokens == 0:
            self._take_in(group, ask, now_s)
            return
        ask.copying = True
        ways = _ways(giver, group, tokens)
        self._loads.copy(
            ask.request, ways, lambda whole, at_s: self._copied(group, ask, tokens if whole else 0, ways, at_s), now_s
        )

    def more(self, request: str, tokens: int, now_s: float) -> None:
        """See the world."""
        group, ask = self._follower(request)
        if group is not None and ask is not None:
            ask.more(tokens)
            self._take_in(group, ask, now_s)

    def go_on(self, request: str, tokens: int, now_s: float) -> None:
        """See the world."""
        group, ask = self._follower(request)
        if group is not None and ask is not None:
            ask.more(tokens)
            group.batch.go_on(ask)
            self._stir(group, now_s)

    def yield_up(self, request: str, now_s: float) -> None:
        """See the world."""
        group = self._at.get(request)
        ask = group.batch.ask(request) if group is not None else None
        if group is None or ask is None:
            return
        if group.batch.yield_up(ask):
            self._agenda.tell(now_s, self._yielded(group, request))
        else:
            self.hurry(group, now_s)

    def cancel(self, request: str, now_s: float) -> None:
        """See the world."""
        group = self._leave(request)
        if group is not None:
            self.hurry(group, now_s)
            group.batch.cancel(request)
            self._loads.give_up_copy(request, now_s)

    def break_all(self, group: WorldGroup, cause: str, now_s: float) -> Sequence[Told]:
        """Its requests are given nothing more, which is to be told."""
        asks = group.batch.asks
        untold = [(ask.request, tokens) for ask in asks if (tokens := group.batch.untold(ask, now_s))]
        requests = [ask.request for ask in asks if ask.request in group.requests]
        requests += [request for request in group.requests if request not in requests]
        for request in requests:
            self.cancel(request, now_s)
        return (
            *[RequestProgressed(request, group.name, tokens) for request, tokens in untold],
            *[RequestBroke(request, group.name, cause) for request in requests],
        )

    def untold(self, request: str, now_s: float) -> Sequence[RequestProgressed]:
        """See the world."""
        group = self._at.get(request)
        ask = group.batch.ask(request) if group is not None else None
        tokens = group.batch.untold(ask, now_s) if group is not None and ask is not None else 0
        return (RequestProgressed(request, group.name, tokens),) if group is not None and tokens else ()

    # ---- what follows

    def hurry(self, group: WorldGroup, now_s: float) -> None:
        """Something is other for its batch: what it is at lands as soon as can be."""
        lands_s = group.batch.hurry(now_s)
        if lands_s is not None:
            self._land_at(group, lands_s)

    def _stir(self, group: WorldGroup, now_s: float) -> None:
        """There is more to do."""
        self.kick(group, now_s)
        self.hurry(group, now_s)

    def kick(self, group: WorldGroup, now_s: float) -> None:
        """Its next step begins, if it is at none: after all that happens now."""
        if group.ready and not group.batch.under_way:
            group.batch.under_way = True
            self._agenda.put(now_s, lambda at_s: self._step(group, at_s))

    def all_there(self, group: WorldGroup, now_s: float) -> None:
        """The last of what it waited for has come: its first step, if it is at that, will end."""
        if group.stepped_s is not None and not group.answered:
            self._land_at(group, max(now_s, group.first_step_s(self._hop_s, self._step_s)))

    def _step(self, group: WorldGroup, now_s: float) -> Sequence[Told]:
        takes_s = group.batch.begin(now_s)
        if takes_s is None:
            return ()
        takes_s *= self._crowding(group)
        if group.waits:
            group.stepped_s = now_s
        elif group.startup.by_layer and not group.answered:
            self._land_at(group, max(now_s + takes_s, group.first_step_s(self._hop_s, self._step_s)))
        else:
            self._land_at(group, now_s + takes_s)
        return ()

    def _crowding(self, group: WorldGroup) -> float:
        """By how much longer a step takes, for its machine has other steps to compute."""
        if self._cores is None or group.nodes[0].on_gpu:
            return 1.0
        machine = group.nodes[0].machine
        at_once = sum(each.at_once for each in self._groups.values() if each.nodes[0].machine == machine)
        return max(1.0, at_once / self._cores)

    def _land_at(self, group: WorldGroup, at_s: float) -> None:
        """Then, and at no time that was said before."""
        landing = group.landing = group.landing + 1
        self._agenda.put(at_s, lambda now_s: self._land(group, landing, now_s))

    def _land(self, group: WorldGroup, landing: int, now_s: float) -> Sequence[Told]:
        """Everyone's tokens are told apart from the others', within as many microseconds; but at once where there is nobody
        but who has them played."""
        if group.landing != landing or self._groups.get(group.name) is not group:
            return ()
        if not group.answers:
            group.stalled.append(lambda at_s: self._land(group, landing, at_s))
            return ()
        landed = group.batch.land()
        told = self._tell(group, landed, now_s)
        if not group.answered and any(tokens for _, tokens in landed):
            group.answered = True
            self._on_answer(group, now_s)
        self._step(group, now_s)
        return told

    def _tell(self, group: WorldGroup, landed: Sequence[tuple[Ask, int]], now_s: float) -> Sequence[Told]:
        told = list[Told]()
        for index, (ask, tokens) in enumerate(landed):
            if tokens and group.batch.terse:
                if self._at.get(ask.request) is group:
                    told.append(RequestProgressed(ask.request, group.name, tokens))
                    if ask.left == 0:
                        self._leave(ask.request)
                if ask.yields and ask.left:
                    told += self._yielded(group, ask.request)(now_s)
            elif tokens:
                self._agenda.tell(now_s + index * 1e-6, self._progress(group, ask, tokens))
            else:
                self._agenda.tell(now_s + index * 1e-6, self._caught_up(group, ask))
            if ask.yields and ask.left and not group.batch.terse:
                self._agenda.tell(now_s + index * 1e-6, self._yielded(group, ask.request))
        return told

    def _progress(self, group: WorldGroup, ask: Ask, tokens: int) -> Happening:
        over = ask.left == 0

        def tell(_now_s: float) -> Sequence[Told]:
            if self._at.get(ask.request) is not group:
                return ()
            if over:
                self._leave(ask.request)
            return (RequestProgressed(ask.request, group.name, tokens),)

        return tell

    def _yielded(self, group: WorldGroup, request: str) -> Happening:
        def tell(_now_s: float) -> Sequence[Told]:
            if self._at.get(request) is not group:
                return ()
            self._leave(request)
            return (Yielded(request, group.name),)

        return tell

    # ---- followers

    def _copied(self, group: WorldGroup, ask: Ask, tokens: int, ways: Sequence[Way], now_s: float) -> None:
        """No tokens if the copy failed."""
        ask.copying, ask.taken, ask.copied_tokens = False, tokens, tokens
        ask.copied_bytes = sum(way.size_bytes for way in ways) if tokens else 0
        self._take_in(group, ask, now_s)

    def _take_in(self, group: WorldGroup, ask: Ask, now_s: float) -> None:
        if ask.behind:
            self._stir(group, now_s)
        else:
            self._agenda.tell(now_s, self._caught_up(group, ask))

    def _caught_up(self, group: WorldGroup, ask: Ask) -> Happening:
        def tell(_now_s: float) -> Sequence[Told]:
            if self._at.get(ask.request) is not group or not ask.follows or ask.behind or ask.copying:
                return ()
            return (CaughtUp(ask.request, group.name, ask.prompt_tokens, ask.copied_tokens, ask.copied_bytes),)

        return tell

    def _follower(self, request: str) -> tuple[WorldGroup | None, Ask | None]:
        group = self._at.get(request)
        ask = group.batch.ask(request) if group is not None else None
        return (group, ask) if ask is not None and ask.follows else (None, None)

    # ---- answers

    def _arrive(self, group: WorldGroup, ask: Ask) -> None:
        self._at[ask.request] = group
        group.requests[ask.request] = None

    def _leave(self, request: str) -> WorldGroup | None:
        """Where it was, if it was anywhere."""
        group = self._at.pop(request, None)
        if group is not None:
            del group.requests[request]
        return group

    def _find(self, name: str, ask: Ask, now_s: float) -> WorldGroup | None:
        group = self._groups.get(name)
        if group is None:
            broke = RequestBroke(ask.request, name, "the group is not there any more")
            self._agenda.tell(now_s, lambda _: (broke,))
        return group

    def _refuse(self, ask: Ask, name: str, reason: str, now_s: float) -> None:
        self._agenda.tell(now_s, lambda _: (RequestRefused(ask.request, name, reason),))


def _ways(giver: WorldGroup, taker: WorldGroup, tokens: int) -> list[Way]:
    """What goes from which stage to which: the KV cache of the layers that both have."""
    found = list[Way]()
    for give, of in zip(giver.placement.stages, giver.nodes, strict=True):
        for take, to in zip(taker.placement.stages, taker.nodes, strict=True):
            layers = min(give.end_layer, take.end_layer) - max(give.first_layer, take.first_layer)
            if layers > 0:
                found.append(Way(of, to, _kv_bytes(taker.placement, take, tokens, layers)))
    return found


def _kv_bytes(placement: Placement, stage: StagePlan, tokens: int, layers: int) -> int:
    """By what the stage reserves for all of its own."""
    return stage.kv_bytes * tokens * layers // (placement.kv_tokens * (stage.end_layer - stage.first_layer))
