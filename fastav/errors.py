"""The one exception for "the user can fix this", and how to tell that memory has run out."""

import errno
import re

_NO_MEMORY = ("out of memory", "can't allocate memory", "DefaultCPUAllocator", "CUBLAS_STATUS_ALLOC_FAILED", "std::bad_alloc")


class UserError(Exception):
    """A problem with what the user gave: what was wrong, what was given, what is allowed.

    The command line prints the text in one line and exits with 2, the page shows it as a toast,
    the evaluation writes it into the record. Every other exception keeps its traceback.
    """


def out_of_memory(error: BaseException) -> str | None:
    """How much memory could not be had ("2.00 GiB", or "some bytes" where the error does not say); None for any other error.

    Python, numpy and FFmpeg raise MemoryError; torch raises OutOfMemoryError on a GPU, and RuntimeError from its CPU allocator,
    CUDA and cuBLAS. By name: torch need not be imported to ask.
    """
    ours = isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM
    named = type(error).__name__ == "OutOfMemoryError" or any(words.lower() in str(error).lower() for words in _NO_MEMORY)
    if not ours and not (isinstance(error, RuntimeError) and named):
        return None
    found = re.search(r"allocate ([\d.]*\d) (\w+)", str(error))
    if found is None:
        return "some bytes"
    return f"{int(found[1]) / 1e6:,.1f} MB" if found[2] == "bytes" else f"{found[1]} {found[2]}"
