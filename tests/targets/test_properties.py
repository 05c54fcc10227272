"""What goes over the wire: it arrives as it was sent, or is told from that."""

from __future__ import annotations

import socket
import zlib
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from tapml_nb.targets.wire.calls import PATTERNS, unwritten
from tapml_nb.targets.wire.envelope import Garbled, error_of, failure, seal, unseal
from tapml_nb.targets.wire.errors import (
    BeyondTarget,
    KernelRaised,
    NoRoom,
    NoTensor,
    Rejected,
    TargetError,
)
from tapml_nb.targets.wire.handshake import pack_word, unpack_word
from tapml_nb.targets.wire.tensor_channel import (
    receive_checked,
    receive_header,
    receive_into,
    send_checked,
    send_message,
)

plain = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
contents = st.recursive(
    plain, lambda some: st.lists(some) | st.dictionaries(st.text(), some), max_leaves=8
)
CONTENT = {"do": "call", "keys": ["x", "y"], "number": 7}


@pytest.fixture(scope="module")
def line() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Both ends of a connection."""
    here, there = socket.socketpair()
    with here, there:
        yield here, there


class TestEnvelope:
    @given(contents)
    def test_round_trip(self, content):
        assert unseal(seal(content)) == content

    @given(st.data(), st.characters())
    def test_a_changed_character_is_seen(self, data, other):
        """Some spellings of a checksum are one number (``0a`` and ``0A``): then nothing is lost."""
        sealed = seal(CONTENT)
        place = data.draw(st.integers(0, len(sealed) - 1))
        changed = sealed[:place] + other + sealed[place + 1 :]
        assume(changed != sealed)
        try:
            assert unseal(changed) == CONTENT
            assert place < 8
        except Garbled:
            pass

    @given(contents)
    def test_half_of_it_is_seen(self, content):
        sealed = seal(content)
        with pytest.raises(Garbled):
            unseal(sealed[: len(sealed) // 2])

    @given(st.text() | st.binary() | st.none() | st.integers())
    def test_anything_else_is_garbled(self, anything):
        text = str(anything)
        assume(text[:8] != f"{zlib.crc32(text[8:].encode('utf8', 'replace')):08x}")
        with pytest.raises(Garbled):
            unseal(anything)

    @pytest.mark.parametrize("kind", [BeyondTarget, KernelRaised, Rejected, NoTensor, TargetError])
    @given(words=st.text(max_size=100))
    def test_errors_keep_their_kind_and_words(self, kind, words):
        told = error_of(unseal(seal(failure(kind(words)))))
        assert type(told) is kind
        assert str(told).endswith(" ".join(words.split()))

    @given(st.integers(0, 2**60), st.none() | st.integers(0, 2**60))
    def test_room_keeps_its_numbers(self, size, capacity):
        told = error_of(unseal(seal(failure(NoRoom(size, capacity)))))
        assert isinstance(told, NoRoom)
        assert (told.size, told.capacity) == (size, capacity)


class TestTensorChannel:
    @given(st.dictionaries(st.text(), contents), st.binary(max_size=2000))
    def test_round_trip(self, line, header, data):
        here, there = line
        send_message(here, header, data)
        assert receive_header(there) == header
        got = bytearray(len(data))
        receive_into(there, memoryview(got))
        assert got == data

    @given(st.binary(max_size=2000), st.data())
    def test_a_changed_byte_is_seen(self, line, content, data):
        here, there = line
        send_checked(here, content)
        sent = bytearray(len(content) + 4)
        receive_into(there, memoryview(sent))
        place = data.draw(st.integers(0, len(sent) - 1))
        for flip, whole in ((0, True), (data.draw(st.integers(1, 255)), False)):
            sent[place] ^= flip
            here.sendall(sent)
            got = bytearray(len(content))
            assert receive_checked(there, memoryview(got)) is whole

    @given(st.binary(max_size=40).filter(lambda text: not text.lstrip().startswith(b"{")))
    def test_a_header_that_is_none_is_refused(self, line, text):
        here, there = line
        here.sendall(len(text).to_bytes(4, "little") + text)
        with pytest.raises(ConnectionError):
            receive_header(there)


@given(st.integers(-(2**31), 2**31 - 1), st.binary())
def test_words(word, rest):
    assert unpack_word(pack_word(word) + rest) == word


@given(
    arrays.arrays(
        st.sampled_from(["bool", "int8", "float16", "float32", "int64"]),
        arrays.array_shapes(max_side=4),
    ),
    st.data(),
)
def test_unwritten_elements_are_those_that_nobody_wrote(result, data):
    left = data.draw(arrays.arrays(bool, result.shape))
    runs = []
    for pattern in PATTERNS:
        memory = np.full(result.nbytes, pattern, np.uint8).view(result.dtype)
        memory = memory.reshape(result.shape)
        runs.append(np.where(left, memory, result).astype(result.dtype))
    if result.dtype != np.bool_:  # np.where makes a 1 of any true
        np.testing.assert_array_equal(unwritten(*runs), left)
