"""One analysis that cannot be shown must not take the others with it: what to say of it instead."""

from __future__ import annotations

from pathlib import Path

from unisono.errors import MissingExtra, StorageError, UnisonoError


def fault(error: Exception) -> str:
    """What went wrong, in a few words: a known error's own, else the kind and the place in the code. Never the message of
    an unknown error, which could hold a patient's value.

    `MissingExtra` and `StorageError` are raised again: they concern every analysis, and say what to do.
    """
    if isinstance(error, MissingExtra | StorageError):
        raise error
    if isinstance(error, UnisonoError):
        return error.what
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = "" if trace is None else f" at {Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}"
    return f"A fault in Unisono itself ({type(error).__name__}{place}); please report it."
