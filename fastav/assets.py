"""Where FastAV-tiny's weights and the bundled clip lie: beside the package in a checkout, inside it in an installed wheel."""

from pathlib import Path

_HERE = Path(__file__).resolve().parent
ASSETS = _HERE / "data" if (_HERE / "data").is_dir() else _HERE.parent / "assets"
