"""Frames on a stream, and packets with descriptors between an agent and a stage process."""

import asyncio
import os
import socket
import struct
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import ProtocolError
from cluster.wire.codec import MAX_FRAME_BYTES, Channel, frame, read_frame
from cluster.wire.hello import Hello
from cluster.wire.reports import Done
from cluster.wire.requests import Cancel
from cluster.wire.stages import Broken
from tests.cluster.vocabulary import KINDS, any_message

_MESSAGES = st.lists(st.sampled_from(KINDS).flatmap(any_message), max_size=5)


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.fixture
def ends() -> Iterator[tuple[Channel, Channel]]:
    one, other = (Channel(sock) for sock in Channel.pair())
    yield one, other
    one.close()
    other.close()


async def _read_all(pieces: list[bytes]) -> list[object]:
    """What is read from a stream on which `pieces` arrive one by one, and which ends then."""
    reader = asyncio.StreamReader()

    async def feed() -> None:
        for piece in pieces:
            reader.feed_data(piece)
            await asyncio.sleep(0)
        reader.feed_eof()

    feeding = asyncio.ensure_future(feed())
    found = []
    while (message := await read_frame(reader)) is not None:
        found.append(message)
    await feeding
    return found


@given(_MESSAGES, st.data())
def test_frames_are_read_one_by_one_in_whatever_pieces_they_arrive(messages: list[object], data: st.DataObject) -> None:
    stream = b"".join(frame(message) for message in messages)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=5)))
    pieces = [stream[start:end] for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    assert asyncio.run(_read_all(pieces)) == messages


@pytest.mark.parametrize("kept", [0, 2, 4, 10])
async def test_a_stream_that_ends_within_a_frame_has_ended(kept: int) -> None:
    assert await _read_all([frame(Hello("group", "secret"))[:kept]]) == []


async def test_a_frame_of_junk_is_a_protocol_error() -> None:
    with pytest.raises(ProtocolError):
        await _read_all([struct.pack(">I", 4) + b"junk"])


async def test_a_frame_that_claims_to_be_huge_is_not_waited_for() -> None:
    with pytest.raises(ProtocolError, match="a frame of"):
        await _read_all([struct.pack(">I", MAX_FRAME_BYTES + 1)])


@given(_MESSAGES)
def test_a_channel_passes_whole_messages_in_order(messages: list[object]) -> None:
    one, other = (Channel(sock) for sock in Channel.pair())
    for message in messages:
        one.send(message)
    assert [other.receive() for _ in messages] == [(message, None) for message in messages]
    one.close()
    other.close()


def test_a_descriptor_travels_beside_its_message(ends: tuple[Channel, Channel]) -> None:
    one, other = ends
    memory = os.memfd_create("test")
    os.write(memory, b"bytes")
    one.send(Done(), memory)
    one.send(Cancel("r"))
    os.close(memory)
    message, received = other.receive()
    assert message == Done()
    assert received is not None
    assert os.pread(received, 10, 0) == b"bytes"
    assert not os.get_inheritable(received)
    os.close(received)
    assert other.receive() == (Cancel("r"), None)


def test_both_ends_can_send(ends: tuple[Channel, Channel]) -> None:
    one, other = ends
    other.send(Done())
    assert one.receive() == (Done(), None)


def test_when_the_other_side_is_gone_what_it_sent_is_read_and_then_the_end(ends: tuple[Channel, Channel]) -> None:
    one, other = ends
    one.send(Done())
    one.close()
    assert other.receive() == (Done(), None)
    with pytest.raises(EOFError):
        other.receive()
    with pytest.raises(OSError, match="Broken pipe"):
        other.send(Done())


def test_unread_messages_do_not_hide_the_end(ends: tuple[Channel, Channel]) -> None:
    """Closing with something unread resets the connection instead of ending it."""
    one, other = ends
    other.send(Done())
    one.close()
    with pytest.raises(EOFError):
        other.receive()


def test_when_there_is_nothing_to_read_it_need_not_wait(ends: tuple[Channel, Channel]) -> None:
    with pytest.raises(BlockingIOError):
        ends[0].receive(wait=False)


def test_a_message_larger_than_a_packet_is_an_error_of_the_sender(ends: tuple[Channel, Channel]) -> None:
    with pytest.raises(OSError, match="too long"):
        ends[0].send(Broken("x" * (2 << 20)))
    ends[0].send(Done())
    assert ends[1].receive() == (Done(), None)


def test_junk_is_a_protocol_error_and_its_descriptor_is_closed() -> None:
    """The descriptor that came beside it was lost."""
    raw, sock = Channel.pair()
    with raw, sock:
        before = _descriptors()
        socket.send_fds(raw, [b"junk"], [0])
        with pytest.raises(ProtocolError):
            Channel(sock).receive()
        assert _descriptors() == before


def test_more_descriptors_than_one_are_not_kept() -> None:
    raw, sock = Channel.pair()
    with raw, sock:
        before = _descriptors()
        socket.send_fds(raw, [b"junk"], [0, 1, 2])
        with pytest.raises(ProtocolError):
            Channel(sock).receive()
        assert _descriptors() == before
