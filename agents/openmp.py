"""OpenMP threads, given back between two users of the processor.

libgomp keeps a pool of threads for each thread that ever ran a parallel operation. When a trainer's thread and the
decoding thread both have one, there are more threads than cores, libgomp stops spinning at barriers, and every
operation of either pays for waking its threads: 2 to 3 times slower, measured on 2 cores, although only one computes.
"""

import ctypes
import sys

_SOFT = 1  # omp_pause_soft of the OpenMP 5.0 specification: threads go, settings stay


def release_threads() -> None:
    """End the pool of the calling thread (about 0.1 ms); its next parallel operation makes a new one."""
    if sys.platform == "win32":
        return
    pause = getattr(ctypes.CDLL(None), "omp_pause_resource_all", None)  # None: a torch with another OpenMP or none
    if pause is not None:
        pause(_SOFT)
