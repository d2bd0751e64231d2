"""Models, nodes and views to decide about, drawn by hypothesis."""

from hypothesis import strategies as st

from schedules.facts import Model, Node, Unit, View

SIZES = st.integers(1, 60)
TIERS = ("dram", "ssd")


def model_of(sizes: list[int], tied: bool = False, kv_bytes_per_token: int = 0, rows_first: bool = False) -> Model:
    """A model whose units, embedding to head, have `sizes` bytes."""
    units = tuple(Unit(f"unit{i}", f"digest{i}", size) for i, size in enumerate(sizes))
    return Model("model", "digest", units, tied, kv_bytes_per_token, rows_first)


def node_of(name: str, device_bytes: int, reserved_bytes: int = 0, units: dict[str, str] | None = None) -> Node:
    """A node with just what placement looks at."""
    return Node(
        name=name,
        address=f"tcp://{name}",
        host="127.0.0.1",
        rendezvous_port=1,
        dram_bytes=0,
        dram_used_bytes=0,
        ssd_bytes=0,
        ssd_used_bytes=0,
        device_bytes=device_bytes,
        device_reserved_bytes=reserved_bytes,
        idle_stage_processes=1,
        busy_stage_processes=0,
        units=units or {},
    )


@st.composite
def models(draw: st.DrawFn, layers: st.SearchStrategy[int] = st.integers(1, 7)) -> Model:  # noqa: B008
    """A small model of any shape."""
    count = draw(layers)
    sizes = draw(st.lists(SIZES, min_size=count + 2, max_size=count + 2))
    return model_of(sizes, draw(st.booleans()), draw(st.integers(0, 5)), draw(st.booleans()))


@st.composite
def views(draw: st.DrawFn, model: Model) -> View:
    """Up to five nodes, each holding some of the model's units."""
    nodes = []
    for index in range(draw(st.integers(0, 5))):
        digests = draw(st.sets(st.sampled_from([unit.digest for unit in model.units])))
        held = {digest: draw(st.sampled_from(TIERS)) for digest in sorted(digests)}
        nodes.append(node_of(f"node{index}", draw(st.integers(0, 400)), draw(st.integers(0, 100)), held))
    return View(tuple(nodes))
