"""Short measurements of ssd and store: what they tell, and that nothing is left of them."""

import threading
from pathlib import Path

import pytest

from storage_tiers.errors import Missing
from storage_tiers.model_store import ModelStore
from storage_tiers.publishing.publish import publish
from storage_tiers.tiers.trials import Interrupted, _turn, find_published, probe_reach, probe_ssd, probe_store
from tests.tiny import make_tiny


def never() -> bool:
    return False


def test_a_probe_of_the_ssd_leaves_no_file(tmp_path: Path) -> None:
    found = probe_ssd(tmp_path, 4, never)
    assert found is not None
    assert found > 0
    assert list(tmp_path.iterdir()) == []


def test_a_probe_of_the_ssd_that_is_interrupted_leaves_no_file(tmp_path: Path) -> None:
    asked = iter(range(1000))
    with pytest.raises(Interrupted):
        probe_ssd(tmp_path, 4, lambda: next(asked) > 3)
    assert list(tmp_path.iterdir()) == []


def test_those_with_a_disk_in_common_measure_it_one_after_the_other(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in "abc"]
    for folder in folders:
        folder.mkdir()
    most = 0

    def watch() -> bool:
        nonlocal most
        most = max(most, len(list(tmp_path.glob("*/probe.*"))))
        return False

    threads = [threading.Thread(target=probe_ssd, args=(folder, 2, watch)) for folder in folders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert most == 1
    with pytest.raises(Interrupted), _turn(tmp_path, never):
        probe_ssd(tmp_path, 2, lambda: True)


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="absent"):
        probe_ssd(tmp_path / "absent", 1, never)


def test_where_nothing_is_published_nothing_can_be_measured(store: ModelStore) -> None:
    with pytest.raises(Missing, match="nothing is published"):
        find_published(store)


def test_the_model_with_the_largest_unit_is_measured_and_a_damaged_one_is_passed_over(
    store: ModelStore, tmp_path: Path
) -> None:
    small = make_tiny("llama", tmp_path / "small")
    large = make_tiny("llama", tmp_path / "large", vocab_size=8192)
    publish(str(small), "a-small", store)
    publish(str(large), "org/large", store)
    store.objects.write("damaged/zarr.json", b"{")
    found = find_published(store)
    assert found.name == "org/large"
    assert {unit.name for unit in found.large} == {"embed", "head"}
    assert probe_reach(store, found) > 0
    assert probe_store(store, found, 2, 0.1, never) > 0


def test_units_that_are_all_small_are_measured_with_all_the_same(store: ModelStore, tmp_path: Path) -> None:
    checkpoint = publish(str(make_tiny("llama", tmp_path / "small")), "small", store)
    found = find_published(store)
    assert set(found.large) == set(checkpoint.units)
    assert probe_store(store, found, 2, 0.5, never) > 0


def test_a_probe_of_the_store_makes_way(store: ModelStore, tmp_path: Path) -> None:
    publish(str(make_tiny("llama", tmp_path / "small")), "small", store)
    before = threading.active_count()
    with pytest.raises(Interrupted):
        probe_store(store, find_published(store), 4, 60.0, lambda: True)
    assert threading.active_count() == before
