"""Imported by Python at its start: time.time() as the test that started this process wants it."""

import mmap
import os
import struct
import time

_real = time.time
_file = os.open(os.environ["STEPPED_CLOCK"], os.O_RDONLY)
_off = mmap.mmap(_file, 8, prot=mmap.PROT_READ)
os.close(_file)
time.time = lambda: _real() + struct.unpack_from("d", _off)[0]
