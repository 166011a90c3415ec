"""ZeroGPU's border. There a task runs in a forked process: its arguments and all that it yields are pickled on the way."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import closing

from fastav.errors import UserError

try:  # ZeroGPU lends its GPU to functions marked like this; elsewhere the package is missing or does nothing
    import spaces

    _lend = spaces.GPU(duration=60)
except ImportError:

    def _lend(generator):
        return generator


def task(generator: Callable[..., Iterator]) -> Callable[..., Iterator]:
    """Decorator: run a generator where the GPU is. It takes and yields plain data: text, numbers, records, arrays.

    What the process has loaded when it is forked is there; what is loaded in the task itself is lost. A UserError arrives as
    one; of every other exception ZeroGPU tells the class alone. Closing the generator ends the task at its next yield.
    """

    @functools.wraps(generator)
    def there(*args):
        try:
            yield from generator(*args)
        except UserError as error:
            yield error  # as data, because an exception loses its text on the way

    lent = _lend(there)

    @functools.wraps(generator)
    def here(*args):
        with closing(lent(*args)) as pieces:
            for piece in pieces:
                if isinstance(piece, UserError):
                    raise piece
                yield piece

    return here
