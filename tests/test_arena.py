"""Memory to lend: an allocator against a model of it, over any order of events."""

import itertools
import os

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from motorpool.arena import PAGE, RETURNED, SEGMENT, Arena
from motorpool.buffers import create_file
from motorpool.messages import ARENA_REGION, ARENA_SLOTS

REGION = 3
SIZES = st.one_of(st.integers(1, 5 * PAGE), st.sampled_from([SEGMENT, SEGMENT + 1]))


class Lending(RuleBasedStateMachine):
    """An owner that lends blocks to two holders, who return them or die."""

    def __init__(self):
        super().__init__()
        self.fd = create_file()
        self.arena = Arena(self.fd, REGION)
        self.count = 0
        self.lent = {}  # slot: (block, contents, holder)

    def teardown(self):
        self.arena.close()
        assert os.fstat(self.fd).st_blocks * 512 <= 2 * ARENA_SLOTS
        os.close(self.fd)

    @rule(size=SIZES, holders=st.lists(st.integers(1, 2), max_size=2))
    def put(self, size, holders):
        """Copy something in, and lend it to any number of holders."""
        self.count += 1
        contents = bytes([self.count % 251 + 1]) * min(size, PAGE)
        block = self.arena.put(memoryview(contents * (size // len(contents))))
        for holder in holders:
            self.lent[self.arena.lend(block, holder)] = block, contents, holder
        self.arena.drop(block)

    @precondition(lambda self: self.lent)
    @rule(data=st.data())
    def give_back(self, data):
        """A holder marks a slot, as `views.py` does."""
        slot = data.draw(st.sampled_from(sorted(self.lent)))
        os.pwrite(self.fd, bytes([RETURNED]), REGION * ARENA_SLOTS + slot)
        del self.lent[slot]

    @rule(holder=st.integers(1, 2))
    def die(self, holder):
        """A holder ends with what it holds."""
        self.arena.collect()
        self.arena.reclaim(holder)
        self.lent = {slot: loan for slot, loan in self.lent.items() if loan[2] != holder}

    @rule(keep=st.sampled_from([0, 4 * PAGE, SEGMENT]))
    def trim(self, keep):
        """Nobody uses more than `keep` and what is lent."""
        self.arena.collect()
        self.arena.trim(keep)
        blocks = {id(block): block.size for block, _, _ in self.lent.values()}
        tables = 2 * ARENA_SLOTS
        assert os.fstat(self.fd).st_blocks * 512 <= keep + sum(blocks.values()) + tables

    @invariant()
    def what_is_lent_is_as_it_was(self):
        """Each block has its contents, in the owner's part of the file."""
        for block, contents, _ in self.lent.values():
            assert (REGION + 1) * ARENA_REGION <= block.offset < (REGION + 2) * ARENA_REGION
            for at in (0, block.length - len(contents)):
                assert os.pread(self.fd, len(contents), block.offset + at) == contents

    @invariant()
    def what_is_lent_does_not_overlap(self):
        """Two blocks share no page, and each lies in one segment."""
        blocks = {block.offset: block for block, _, _ in self.lent.values()}
        ends = [(offset, offset + blocks[offset].size) for offset in sorted(blocks)]
        assert all(end <= begin for (_, end), (begin, _) in itertools.pairwise(ends))
        for block in blocks.values():
            assert block.base <= block.offset
            assert block.offset + block.size <= block.base + block.segment_size


TestLending = Lending.TestCase
# Each run takes other examples, and whole segments take their time to fill.
TestLending.settings = settings(max_examples=8, stateful_step_count=30)


def test_memory_that_came_back_is_used_first():
    """However much room there is beside it."""
    fd = create_file()
    arena = Arena(fd, 0)
    data = memoryview(bytes(10 * PAGE))
    offsets = set()
    for _ in range(20):
        block = arena.put(data)
        offsets.add(block.offset)
        arena.drop(block)
    arena.close()
    os.close(fd)

    assert len(offsets) == 1


def test_memory_that_is_refused_raises_and_leaves_the_arena_as_it_was():
    """A limit on files stands for a machine without memory."""
    resource = pytest.importorskip("resource")
    fd = create_file()
    arena = Arena(fd, 0)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (ARENA_REGION + 2 * PAGE, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            arena.put(memoryview(bytes(10 * PAGE)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    held = os.fstat(fd).st_blocks * 512
    block = arena.put(memoryview(b"x" * 10 * PAGE))
    found = os.pread(fd, block.length, block.offset)
    arena.close()
    os.close(fd)

    assert held <= PAGE
    assert found == b"x" * 10 * PAGE
