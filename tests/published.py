"""Reading published models back, by zarr-python alone and the way we load them."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
import zarr

from storage_tiers.checkpoint import Checkpoint
from storage_tiers.model_store import ModelStore


def tensors_by_zarr(folder: Path, *, consolidated: bool) -> dict[str, torch.Tensor]:
    """Every weight of the model in `folder`, rebuilt from what a plain zarr reader shows."""
    root: Any = zarr.open_group(folder, mode="r", use_consolidated=consolidated)
    found: dict[str, torch.Tensor] = {}
    for path in root.attrs["units"]:
        unit = root[path]
        found |= _view(unit[:], unit.attrs["tensors"])
    return found


def files_by_zarr(folder: Path) -> dict[str, bytes]:
    """The model's files, likewise."""
    root: Any = zarr.open_group(folder, mode="r")
    files = [root[path] for path in root.attrs["files"]]
    return {file.attrs["unit"]: file[:].tobytes()[: file.attrs["tensors"][0]["nbytes"]] for file in files}


def tensors_by_store(store: ModelStore, checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    """Every weight, from the raw bytes of the units."""
    found: dict[str, torch.Tensor] = {}
    for unit in checkpoint.units:
        data = np.zeros(unit.size_bytes, np.uint8)
        store.objects.read_into(store.unit_key(checkpoint.name, unit), 0, data.data)
        entries = [
            {"name": t.name, "dtype": t.dtype, "shape": t.shape, "offset": t.offset_bytes} for t in unit.layout.tensors
        ]
        found |= _view(data, entries)
    return found


def same_bits(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Whether both hold the same names, types, shapes and bits."""
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype and torch.equal(_bits(one[name]), _bits(other[name])) for name in one
    )


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().view(torch.uint8)


def _view(data: np.ndarray, entries: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Views of the bytes, as a stage makes them."""
    found = {}
    for entry in entries:
        dtype: torch.dtype = getattr(torch, entry["dtype"])
        count = int(np.prod(entry["shape"], dtype=np.int64))
        flat = torch.frombuffer(data, dtype=dtype, count=count, offset=entry["offset"])
        found[entry["name"]] = flat.reshape(tuple(entry["shape"]))
    return found
