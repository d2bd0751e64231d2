"""The archive that torch.save writes, looked at before torch opens it: entries as they are, none packed to be small."""

import zipfile
from pathlib import Path

MOST_ENTRIES = 1 << 18
MOST_PICKLE_BYTES = 64 << 20
"""Of what says how the tensors are made; theirs are beside it."""


def check_archive(path: Path) -> None:
    """ValueError if the file is no such archive, or would hold more than the file has; OSError if it cannot be read."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, UnicodeDecodeError) as error:
        raise ValueError(f"it is no archive ({error})") from error
    if len(entries) > MOST_ENTRIES:
        raise ValueError(f"it has {len(entries):,} entries")
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise ValueError("its entries are compressed")
    if sum(entry.file_size for entry in entries) > path.stat().st_size:
        raise ValueError("its entries are larger than it is")
    if any(entry.file_size > MOST_PICKLE_BYTES for entry in entries if entry.filename.endswith(".pkl")):
        raise ValueError(f"its pickle is larger than {MOST_PICKLE_BYTES >> 20} MiB")
