"""FastAV: token pruning for audio-visual LLMs at inference, without training (arXiv:2601.13143).

    import fastav
    model.generate(**inputs, **fastav.pruned(model, inputs))

Importing this package imports neither torch nor transformers; the names below load what they need on first use.
"""

from importlib import import_module

__version__ = "0.1.0"

_HOME = {
    "install": "fastav.engine",
    "pruned": "fastav.engine",
    "cache_keyword": "fastav.decoder",
    "PrunedCache": "fastav.engine",
    "TokenLayout": "fastav.layout",
    "layout_of": "fastav.layout",
    "FastAV": "fastav.methods",
    "Vanilla": "fastav.methods",
    "UserError": "fastav.errors",
    "load": "fastav.session",
}
__all__ = sorted(_HOME)


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module 'fastav' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
