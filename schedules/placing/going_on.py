"""How long it takes until a replica that runs goes on elsewhere."""

from schedules.estimates import migration_s, whole_s
from schedules.placing.decision import Running
from schedules.placing.survey import Site


def goes_on_s(site: Site, replica: Running) -> float:
    """Seconds until it does there, where `site` is of its own model; infinite if nothing is known of the node's speeds."""
    if site.mean is None:
        return float("inf")
    size_bytes = replica.model.size_bytes
    fetched_s = site.busy_s + site.far[-1] / site.mean.nic_bytes_per_s
    load_s = whole_s(site.mean, 1, fetched_s, site.near[-1], size_bytes)
    prefill, decode = site.mean.prefill_bytes_per_s / size_bytes, site.mean.decode_bytes_per_s / size_bytes
    return migration_s(load_s, replica.tokens, prefill, decode)
