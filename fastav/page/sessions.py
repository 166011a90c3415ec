"""The loaded model, and which models a visitor may ask for. Neither torch nor transformers is imported before the first load."""

from __future__ import annotations

import argparse
import functools
import gc
import threading

from fastav import models
from fastav.errors import UserError
from fastav.models import arguments
from fastav.page.request import brief


class Sessions:
    """One model at a time, because two large ones may not fit. Safe to ask from several threads.

    given     what the operator typed, see command.parse.
    offered   the models that visitors may load: the operator's own, then those that --allow-model adds.
    """

    def __init__(self, given: argparse.Namespace):
        self.given = given
        self.offered = list(dict.fromkeys([given.model, *given.allow_model]))
        self._lock = threading.Lock()
        self._session = None
        self.read = functools.lru_cache(maxsize=2)(self._read)  # the preview and the run after it share one decoding

    def get(self, name: str):
        """The session of model `name`, loaded when it is first asked for. Raises UserError when it cannot or may not be.

        Device, dtype and attention are those of the command line; checkpoint, revision and device map are for its model alone.
        """
        if name not in self.offered:
            problem = f"{brief(name)} is not offered here" if name in models.names() else f"unknown model {brief(name)}"
            raise UserError(
                f"{problem}; this page has {', '.join(self.offered)}, "
                "and whoever runs it adds a model with `python app.py --allow-model NAME`"
            )
        loaded = self._session
        if loaded is not None and loaded.model_name == name:  # without the lock: in a forked process it may be held for ever
            return loaded
        with self._lock:
            if self._session is None or self._session.model_name != name:
                from fastav import session

                self._session = None
                gc.collect()  # its memory goes before the next model comes
                options = arguments.options(self.given)
                if name != self.given.model:
                    options |= {"revision": None, "device_map": None}
                self._session = session.load(name, self.given.checkpoint if name == self.given.model else None, **options)
            return self._session

    def preload(self) -> None:
        """Load the operator's model ahead of the first question; what fails here is told when somebody asks."""
        try:
            self.get(self.given.model)
        except UserError as error:
            print(f"the default model is not loaded: {error}")

    def _read(self, model: str, path: str):
        """The decoded clip. Uploads lie at a path named by their content."""
        return self.get(model).read(path)
