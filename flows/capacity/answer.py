"""The first screen: what to get, what it costs, what it attains, and what binds."""

from collections.abc import Iterator, Sequence
from xml.etree.ElementTree import Element

from flows.capacity import asked
from flows.capacity.curve import attains, monthly
from flows.capacity.markup import Child, el
from flows.capacity.words import SPACE, capital, count, goal, machines, money, percent, prose, rate, size
from schedules.capacity.plan import Plan
from schedules.capacity.trial import Trial


def told_of(plan: Plan) -> Trial | None:
    """Which trial there is more to say of: the chosen one, else that which came closest, of several the cheapest."""
    if plan.chosen is not None:
        return plan.chosen
    return min(plan.tried, key=lambda trial: (-trial.attained, trial.price_per_h), default=None)


def answer(plan: Plan, told: Trial | None) -> Iterator[Element]:
    """Its parts, one under the other."""
    yield el("h1", prose(plan.sentence))
    if told is not None:
        if plan.chosen is None:
            yield el("p", f"Of all that was tried this came closest: {machines(told.cluster)}.", class_="lead")
        yield facts(plan, told)
    if plan.binding:
        yield el("p", el("b", "What binds"), prose(capital(plan.binding)), class_="binds")
    if plan.notes:
        yield el("ul", (el("li", prose(capital(note))) for note in plan.notes), class_="notes")


def facts(plan: Plan, told: Trial) -> Element:
    """Four things in large letters."""
    an_hour, tokens = (money(each, plan.currency) for each in (told.price_per_h, told.price_per_mtok))
    price: list[Child] = [money(monthly(told), plan.currency), el("small", " a month")]
    return el(
        "dl",
        _fact("Price", price, f"{an_hour} an hour; {tokens} a million tokens of answers"),
        _fact("Machines", [machines(told.cluster)], _of_a_machine(plan, told)),
        _fact("Network", [_network(plan, told)], _of_the_network(plan, told)),
        _fact("Served within their levels", [percent(told.attained)], verdict(told.attained, plan.attainment)),
        class_="facts",
    )


def verdict(share: float, wanted: float) -> Element:
    """In words, for a colour alone says nothing."""
    enough = attains(share, wanted)
    words = el("b", "✓ attained" if enough else "✗ missed", class_="yes" if enough else "no")
    return el("span", words, f": {goal(wanted)} asked for")


def _fact(name: str, big: Sequence[Child], small: str | Element) -> Element:
    return el("div", el("dt", name), el("dd", big, class_="big"), el("dd", small, class_="small"))


def _of_a_machine(plan: Plan, told: Trial) -> Element:
    """By type, a line each, where that makes a difference."""
    per = asked.accelerators(plan)
    of = {name: _parts(told, name, per.get(name)) for name, number in told.cluster.machines.items() if number}
    if len(set(of.values())) <= 1:
        return el("span", f"each with {next(iter(of.values()), '') or 'all that it has'}")
    return el("div", (el("div", f"{name}: {parts or 'all that it has'}") for name, parts in of.items()))


def _parts(told: Trial, name: str, accelerators: int | None) -> str:
    sizes = (("dram", told.cluster.dram_budget_bytes.get(name)), ("ssd", told.cluster.ssd_budget_bytes.get(name)))
    parts = [] if accelerators is None else [count(accelerators, "accelerator")]
    parts += [
        f"{size(bytes_)}{SPACE}{what}" if bytes_ else f"no{SPACE}{what}" for what, bytes_ in sizes if bytes_ is not None
    ]
    return ", ".join(parts)


def _network(plan: Plan, told: Trial) -> str:
    known = asked.cards(plan)
    rates = sorted({known[name] for name, number in told.cluster.machines.items() if number and name in known})
    times = told.cluster.network
    if len(rates) == 1:
        return rate(rates[0] * times)
    if rates:
        return f"{rate(rates[0] * times)} to {rate(rates[-1] * times)}"
    return f"{times:g}{SPACE}x{SPACE}its cards" if times != 1 else "As it is"


def _of_the_network(plan: Plan, told: Trial) -> str:
    store, times = told.cluster.store_bytes_per_s, told.cluster.network
    parts = ["of each accelerator's card"] if asked.cards(plan) else []
    parts += [f"{times:g} times what there is"] if times != 1 else []
    parts += ["the store sets no limit" if store is None else f"the store gives {rate(store)} to all"]
    return "; ".join(parts)
