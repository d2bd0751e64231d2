"""The meeting point of groups: a store as torch's own, for those alone who know their group's secret, and for little."""

import gc
import logging
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import timedelta

import pytest
from torch.distributed import DistStoreError, PrefixStore, Store, TCPStore

from cluster.errors import NoInterface
from cluster.node.rendezvous import MOST_GROUP_BYTES, MOST_VALUE_BYTES, Rendezvous, interface_of
from cluster.stage.joining.meeting import Meeting
from cluster.wire.hello import Hello, group_secret
from storage_tiers.strangers import MOST_STRANGERS

TIMEOUT_S = 20.0


@pytest.fixture(scope="module")
def rendezvous() -> Iterator[Rendezvous]:
    found = Rendezvous("127.0.0.1")
    yield found
    found.close()


def meeting(rendezvous: Rendezvous, group: str, timeout_s: float = TIMEOUT_S) -> Meeting:
    hello = Hello(group, group_secret(rendezvous.secret, group))
    return Meeting("127.0.0.1", rendezvous.port, hello, timeout_s)


@pytest.fixture(params=["ours", "torch's"])
def store(request: pytest.FixtureRequest, rendezvous: Rendezvous) -> Iterator[Store]:
    """What a process group is given, and the store of torch's that it replaces."""
    if request.param == "ours":
        found = meeting(rendezvous, "contract")
        yield found
        found.close()
    else:
        yield TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)


def test_what_is_set_is_got(store: Store) -> None:
    store.set("key", "value")
    store.set("bytes", b"\0\xff")
    assert (store.get("key"), store.get("bytes")) == (b"value", b"\0\xff")
    store.set("key", "another")
    assert store.get("key") == b"another"
    store.wait(["key", "bytes"])
    store.wait(["key"], timedelta(seconds=1))


def test_numbers_are_added(store: Store) -> None:
    assert [store.add("number", 2), store.add("number", -3)] == [2, -1]
    assert store.get("number") == b"-1"


def test_what_is_there_is_seen_and_can_be_deleted(store: Store) -> None:
    assert not store.check(["here"])
    store.set("here", "")
    assert store.check(["here"])
    assert not store.check(["here", "not here"])
    assert [store.delete_key("here"), store.delete_key("here")] == [True, False]
    assert not store.check(["here"])


def test_values_are_swapped_if_they_are_as_expected(store: Store) -> None:
    assert store.compare_set("slot", "", "first") == b"first"
    assert store.compare_set("slot", "else", "second") == b"first"
    assert store.compare_set("slot", "first", "second") == b"second"
    assert store.compare_set("none", "else", "second") == b"else"
    assert store.get("slot") == b"second"


def test_what_does_not_come_is_an_error_in_time(store: Store) -> None:
    with pytest.raises(DistStoreError):
        store.wait(["never"], timedelta(milliseconds=100))


def test_what_comes_late_is_waited_for_while_others_are_served(rendezvous: Rendezvous) -> None:
    one, other = meeting(rendezvous, "late"), meeting(rendezvous, "late")
    got: list[bytes] = []
    waiting = threading.Thread(target=lambda: got.append(one.get("later")))
    waiting.start()
    time.sleep(1.2)  # longer than one question waits
    one.set("meanwhile", "same store, other thread")
    other.set("later", "here")
    waiting.join(TIMEOUT_S)
    assert got == [b"here"]
    assert one.num_keys() == 2
    one.close()
    other.close()


def test_torch_can_take_its_own_connection(rendezvous: Rendezvous) -> None:
    store = meeting(rendezvous, "cloned")
    clone = PrefixStore("of torch", store).clone()
    gc.collect()
    clone.set("key", "value")
    assert store.get("of torch/key") == b"value"
    store.close()


def test_a_group_is_forgotten_with_its_last_connection(rendezvous: Rendezvous) -> None:
    one, other = meeting(rendezvous, "gone"), meeting(rendezvous, "gone")
    one.set("key", "value")
    assert other.check(["key"])  # it is connected only once it has asked for something
    one.close()
    assert other.get("key") == b"value"
    other.close()
    deadline_s = time.monotonic() + TIMEOUT_S
    while rendezvous._boards and time.monotonic() < deadline_s:
        time.sleep(0.01)
    assert rendezvous._boards == {}


def test_a_group_sees_nothing_of_another(rendezvous: Rendezvous) -> None:
    one, other = meeting(rendezvous, "one"), meeting(rendezvous, "other")
    one.set("key", "value")
    assert not other.check(["key"])
    one.close()
    other.close()


@pytest.mark.parametrize("secret", ["", "a gueß", group_secret("another node", "group")])
def test_who_does_not_know_the_groups_secret_is_not_let_in(rendezvous: Rendezvous, secret: str) -> None:
    stranger = Meeting("127.0.0.1", rendezvous.port, Hello("group", secret), 1.0)
    with pytest.raises(DistStoreError, match="does not answer"):
        stranger.set("key", "value")


def test_the_secret_of_one_group_opens_no_other(rendezvous: Rendezvous) -> None:
    member = Meeting("127.0.0.1", rendezvous.port, Hello("group", group_secret(rendezvous.secret, "other")), 1.0)
    with pytest.raises(DistStoreError, match="does not answer"):
        member.check(["key"])


def test_a_group_can_fill_no_memory(rendezvous: Rendezvous) -> None:
    """Torch's store took 400 MB from whoever came. What does not fit is refused, and the group goes on."""
    store = meeting(rendezvous, "much")
    with pytest.raises(DistStoreError, match="no more than"):
        store.set("huge", bytes(MOST_VALUE_BYTES + 1))
    for number in range(7):
        store.set(f"large/{number}", bytes(MOST_VALUE_BYTES // 2))
    with pytest.raises(DistStoreError, match="no more than"):
        store.set("large/7", bytes(MOST_VALUE_BYTES // 2))
    with pytest.raises(DistStoreError, match="no number"):
        store.add("large/0", 1)
    store.set("large/0", "small")
    store.set("more", bytes(1000))
    assert sum(board.used_bytes for board in rendezvous._boards.values()) <= MOST_GROUP_BYTES
    with pytest.raises(DistStoreError, match="does not answer"):
        store.set("too large for a frame", bytes(2 * MOST_VALUE_BYTES))
    store.close()


def test_strangers_keep_no_stage_out_and_stay_for_seconds(
    rendezvous: Rendezvous, caplog: pytest.LogCaptureFixture
) -> None:
    with ExitStack() as stack, caplog.at_level(logging.INFO):
        waiting = [
            stack.enter_context(socket.create_connection(("127.0.0.1", rendezvous.port), TIMEOUT_S))
            for _ in range(2 * MOST_STRANGERS)
        ]
        for stranger in waiting:
            stranger.sendall(struct.pack(">I", 4096) + b"very secret")
        store = meeting(rendezvous, "among strangers")
        store.set("key", "value")
        store.close()
        for stranger in waiting:
            try:
                assert stranger.recv(1) == b""
            except ConnectionResetError:
                continue
    assert "very secret" not in caplog.text


def test_closing_ends_the_thread_and_whoever_is_connected() -> None:
    before = threading.active_count()
    closing = Rendezvous("127.0.0.1")
    store = meeting(closing, "group")
    store.set("key", "value")
    closing.close()
    gc.collect()
    assert threading.active_count() == before
    with pytest.raises(DistStoreError, match="does not answer"):
        store.get("key")


def test_nobody_shows_a_secret(rendezvous: Rendezvous) -> None:
    hello = Hello("group", "very secret")
    assert "very secret" not in repr(hello)
    with pytest.raises(DistStoreError) as refused:
        Meeting("127.0.0.1", rendezvous.port, hello, 1.0).set("key", "value")
    assert "very secret" not in f"{refused.value!r} {refused.value.__cause__!r}"


def test_an_address_that_is_not_this_machines_is_refused_with_the_setting() -> None:
    """The sentence named a setting that there is not."""
    assert interface_of("127.0.0.1") == "lo"
    with pytest.raises(NoInterface, match=r"address 192\.0\.2\.1: set cluster\.host"):
        interface_of("192.0.2.1")
    with pytest.raises(NoInterface, match=r"no\.such\.host\.invalid, cannot be found: .*; set cluster\.host"):
        interface_of("no.such.host.invalid")
