"""What is there to stay, kept from the garbage collector."""

import functools
import gc


@functools.cache
def settle() -> None:
    """Say that all objects there are now live as long as this process; once, at its start.

    Dash, Plotly and an app are some 90 000 objects. A full collection looks at each of them, which
    holds a loop up for 50 ms, and unshares the memory of processes that were forked from one.
    """
    # What is garbage by now would stay for ever, too.
    gc.collect()
    gc.freeze()
