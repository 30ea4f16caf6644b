"""The cache against a model: what it holds, in which order it drops that, and never too many bytes."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from runtime._entry import encode_entry
from runtime.cache import EmbeddingCache

KEYS = st.integers(0, 7).map(lambda number: f"{number:064x}")
SIZES = st.one_of(st.integers(1, 300), st.integers(1, 9000))
DTYPES = st.sampled_from(["bool", "int8", "uint8", "int16", "uint16", "float16", "int32", "uint32", "float32"])


class LruModel:
    """Sizes of the entries that a byte-bounded LRU holds, oldest first."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.sizes: OrderedDict[str, int] = OrderedDict()

    def put(self, key: str, size: int) -> None:
        self.sizes.pop(key, None)
        if size > self.limit:
            return
        while sum(self.sizes.values()) + size > self.limit:
            self.sizes.popitem(last=False)
        self.sizes[key] = size

    def get(self, key: str) -> bool:
        if key in self.sizes:
            self.sizes.move_to_end(key)
        return key in self.sizes


class MemoryMachine(RuleBasedStateMachine):
    """Memory alone holds exactly what the model holds."""

    @initialize(limit=st.integers(0, 20_000))
    def start(self, limit: int) -> None:
        self.cache = EmbeddingCache(memory_bytes=limit, disk_bytes=0)
        self.model = LruModel(limit)
        self.values: dict[str, np.ndarray] = {}

    @rule(key=KEYS, size=SIZES, fill=st.integers(0, 255))
    def put(self, key: str, size: int, fill: int) -> None:
        self.values[key] = np.full(size, fill, np.uint8)
        self.cache.put(key, {"t": self.values[key]})
        self.model.put(key, size)

    @rule(key=KEYS)
    def get(self, key: str) -> None:
        found = self.cache.get(key)
        assert (found is not None) == self.model.get(key)
        assert found is None or np.array_equal(found["t"], self.values[key])

    @rule()
    def clear(self) -> None:
        assert self.cache.clear().memory_bytes == sum(self.model.sizes.values())
        self.model.sizes.clear()

    @invariant()
    def holds_what_it_says(self) -> None:
        info = self.cache.info()
        assert info.memory_bytes == sum(self.model.sizes.values()) <= info.memory_limit
        assert info.memory_entries == len(self.model.sizes)


class DiskMachine(RuleBasedStateMachine):
    """The folder holds exactly what the model holds, whichever of two objects is used or restarted."""

    @initialize(limit=st.integers(200, 20_000))
    def start(self, limit: int) -> None:
        self.directory = Path(tempfile.mkdtemp()) / "embeddings"
        self.model = LruModel(limit)
        self.caches = [self.open(), self.open()]
        self.values: dict[str, np.ndarray] = {}

    def open(self) -> EmbeddingCache:
        return EmbeddingCache(memory_bytes=0, disk_bytes=self.model.limit, directory=self.directory)

    def file(self, key: str) -> Path:
        return self.directory / f"{key}.embedding"

    @rule(which=st.integers(0, 1), key=KEYS, size=SIZES, fill=st.integers(0, 255))
    def put(self, which: int, key: str, size: int, fill: int) -> None:
        self.values[key] = np.full(size, fill, np.uint8)
        self.caches[which].put(key, {"t": self.values[key]})
        self.model.put(key, sum(len(part) for part in encode_entry(key, {"t": self.values[key]})))

    @rule(which=st.integers(0, 1), key=KEYS)
    def get(self, which: int, key: str) -> None:
        found = self.caches[which].get(key)
        assert (found is not None) == self.model.get(key)
        assert found is None or np.array_equal(found["t"], self.values[key])

    @rule(which=st.integers(0, 1))
    def restart(self, which: int) -> None:
        self.caches[which].close()
        self.caches[which] = self.open()

    @rule(key=KEYS, place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
    def flip_a_bit(self, key: str, place: float, bit: int) -> None:
        if key in self.model.sizes:
            content = bytearray(self.file(key).read_bytes())
            content[int(place * len(content))] ^= 1 << bit
            self.file(key).write_bytes(content)
            assert self.caches[0].get(key) is None
            del self.model.sizes[key]
            # Its row is still counted. A writer that starts drops it, so that the model need not know.
            self.lose_the_index()

    @rule()
    def lose_the_index(self) -> None:
        (self.directory / "index.sqlite3").unlink(missing_ok=True)

    @rule(which=st.integers(0, 1))
    def clear(self, which: int) -> None:
        assert self.caches[which].clear().disk_bytes == sum(self.model.sizes.values())
        self.model.sizes.clear()

    @invariant()
    def holds_what_it_says(self) -> None:
        info = self.caches[0].info()
        assert info.disk_bytes == sum(self.model.sizes.values()) <= info.disk_limit
        assert info.disk_entries == len(self.model.sizes)

    def teardown(self) -> None:
        if hasattr(self, "directory"):
            for cache in self.caches:
                cache.close()
            shutil.rmtree(self.directory.parent)


TestMemory = MemoryMachine.TestCase
TestMemory.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
TestDisk = pytest.mark.skipif(sys.platform == "win32", reason="the order needs a fine clock")(DiskMachine.TestCase)
TestDisk.settings = settings(max_examples=30, stateful_step_count=30, deadline=None)


@given(
    tensors=st.dictionaries(
        st.text(min_size=1, max_size=20).filter(lambda name: name.isprintable()),
        DTYPES.flatmap(lambda dtype: npst.arrays(dtype, npst.array_shapes(min_dims=0, max_dims=5, max_side=4))),
        min_size=1,
        max_size=4,
    )
)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_tensors_come_back_from_disk_bit_for_bit(tensors: dict[str, np.ndarray], tmp_path: Path) -> None:
    with EmbeddingCache(memory_bytes=0, directory=tmp_path / "embeddings") as cache:
        cache.put("a" * 64, tensors)
        found = cache.get("a" * 64)
    assert found is not None
    assert list(found) == list(tensors)
    for name, tensor in tensors.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape)
        assert found[name].tobytes() == tensor.tobytes()


@given(content=st.binary(max_size=600))
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_arbitrary_bytes_in_the_place_of_an_entry_are_a_miss(content: bytes, tmp_path: Path) -> None:
    directory = tmp_path / "embeddings"
    directory.mkdir(exist_ok=True)
    (directory / f"{'a' * 64}.embedding").write_bytes(content)
    with EmbeddingCache(directory=directory) as cache:
        assert cache.get("a" * 64) is None
