"""Published checkpoints in an object store, and the folders that models are in place in."""

import itertools
import logging
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext

from storage_tiers.checkpoint import ROOT, Checkpoint, Extent, UnitIndex, check_model_name, is_model_name
from storage_tiers.checksums import Checksums
from storage_tiers.errors import Corrupt, Missing, StoreUnavailable
from storage_tiers.object_store import ObjectStore, protocol_of
from storage_tiers.pace import Pace
from storage_tiers.retries import again_after_s
from storage_tiers.schema import ROOT_LIMIT_BYTES, parse_root

_log = logging.getLogger(__name__)
_FILE_WITHIN_S = 5.0
_FOLDERS_KEPT = 64


class ModelStore:
    """Published models in an object store. With a `pace` units are read no faster."""

    def __init__(self, objects: ObjectStore, pace: Pace | None = None) -> None:
        self.objects, self._pace = objects, pace
        self._elsewhere: dict[str, ObjectStore] = {}
        self._unlisted: set[str] = set()
        self._lock = threading.Lock()

    def open(self, name: str) -> Checkpoint:
        """The model's checkpoint, from one read of its root metadata. Missing if no such model is published, Corrupt if
        its root is not what publishing writes (storage_tiers.schema)."""
        key = f"{check_model_name(name)}/{ROOT}"
        try:
            text = self.objects.read(key, ROOT_LIMIT_BYTES)
        except Missing as error:
            raise Missing(f"no model {name!r} in {self.objects.url}") from error
        checkpoint = parse_root(text, f"{self.objects.url}/{key}", name)
        for extent in itertools.chain.from_iterable(unit.extents for unit in checkpoint.units):
            self._check_kind(extent.url)
        return checkpoint

    def list(self) -> list[str]:
        """Names of all published models, sorted."""
        return sorted(self.names())

    def names(self) -> Iterator[str]:
        """The same, one by one as they are found."""
        for top in filter(is_model_name, self.objects.names("")):
            below = self._below(top)
            if ROOT in below:
                yield top
            for name in below:
                path = f"{top}/{name}"
                if is_model_name(path) and self.objects.size_bytes(f"{path}/{ROOT}") is not None:
                    yield path

    def _below(self, top: str) -> Sequence[str]:
        """One folder that we may not read, of a store that is a folder, hides no other; that is said once."""
        try:
            return self.objects.names(top)
        except StoreUnavailable as error:
            if not self.objects.local:
                raise
            if top not in self._unlisted:
                self._unlisted.add(top)
                _log.warning("what is in %s is not known: %s", top, error)
            return []

    def unit_key(self, name: str, unit: UnitIndex) -> str:
        """The object that holds a unit's bytes; there is none for a unit in place."""
        return f"{name}/{unit.key}"

    def is_local(self, unit: UnitIndex) -> bool:
        """Whether the unit's bytes lie in files of this machine, so that small reads cost little."""
        return all(self._beside(e)[0].local for e in unit.extents) if unit.extents else self.objects.local

    def read_unit_into(self, name: str, unit: UnitIndex, offset_bytes: int, view: memoryview) -> None:
        """Fill `view` with the unit's bytes from `offset_bytes`, also if it is in place. Missing or Corrupt as for
        ObjectStore; nothing is checked against checksums here."""
        with self._pace.held(len(view)) if self._pace is not None else nullcontext():
            self._read_unit_into(name, unit, offset_bytes, view)

    def _read_unit_into(self, name: str, unit: UnitIndex, offset_bytes: int, view: memoryview) -> None:
        if not unit.extents:
            self.objects.read_into(self.unit_key(name, unit), offset_bytes, view)
            return
        done, end = offset_bytes, offset_bytes + len(view)
        for extent in unit.extents:
            begin, stop = max(extent.at_bytes, done), min(extent.at_bytes + extent.size_bytes, end)
            if begin < stop:
                view[done - offset_bytes : begin - offset_bytes] = bytes(begin - done)
                objects, key = self._beside(extent)
                skipped = begin - extent.at_bytes
                objects.read_into(key, extent.offset_bytes + skipped, view[begin - offset_bytes : stop - offset_bytes])
                done = stop
        view[done - offset_bytes :] = bytes(end - done)

    def _beside(self, extent: Extent) -> tuple[ObjectStore, str]:
        """The folder that holds an extent's file, and its key there."""
        folder, _, key = extent.url.rpartition("/")
        return self.folder(folder), key

    def folder(self, url: str) -> ObjectStore:
        """A folder that models are in place in, reached as our own objects are. Corrupt unless it is of the store's kind."""
        with self._lock:
            found = self._elsewhere.pop(url, None)
            if found is None:
                self._check_kind(url)
                found = ObjectStore(url, self.objects.options, self.objects.reader)
                while len(self._elsewhere) >= _FOLDERS_KEPT:
                    del self._elsewhere[next(iter(self._elsewhere))]
            self._elsewhere[url] = found
            return found

    def _check_kind(self, url: str) -> None:
        """A root says where its bytes are: only what is reached as the store itself is, not whatever fsspec knows."""
        if protocol_of(url) != self.objects.protocol:
            raise Corrupt(
                f"a model in {self.objects.url} is in place at {url[:200]}, which is not reached by "
                f"{self.objects.protocol}://, as the store is; publish a copy"
            )

    def read_file(self, name: str, file: UnitIndex) -> bytes:
        """A file that travels with the model (its tokenizer, say), proven by its checksums and digest: else Corrupt."""
        buffer = memoryview(bytearray(file.size_bytes))
        self._read_in_time(self.unit_key(name, file), buffer)
        sums = Checksums(file.layout)
        sums.update(buffer)
        if sums.chunk_crc32c != file.chunk_crc32c or not sums.holds(file.digest):
            raise Corrupt(f"file {file.name} of model {name} is not what was published: its checksums differ")
        return bytes(buffer[: file.layout.tensors[0].size_bytes])

    def _read_in_time(self, key: str, buffer: memoryview) -> None:
        """A transfer tries again by itself; who reads a file would have to be asked again."""
        until_s = time.monotonic() + _FILE_WITHIN_S
        for tries in itertools.count(1):
            try:
                self.objects.read_into(key, 0, buffer)
                return
            except StoreUnavailable as error:
                after_s = again_after_s(error, tries, until_s - time.monotonic())
                if after_s is None:
                    raise
                time.sleep(after_s)
