"""Units of length as OME-Zarr spells them, in micrometres.

The specification lists the names of UDUNITS-2 (`micrometer`); the symbols are what older writers left behind.
"""

from __future__ import annotations

from typing import Final

_POWERS: Final = {
    "yotta": 24, "zetta": 21, "exa": 18, "peta": 15, "tera": 12, "giga": 9, "mega": 6, "kilo": 3, "hecto": 2,
    "": 0, "deci": -1, "centi": -2, "milli": -3, "micro": -6, "nano": -9, "pico": -12, "femto": -15,
    "atto": -18, "zepto": -21, "yocto": -24,
}  # fmt: skip

_MICROMETERS: Final = {
    **{f"{prefix}{m}": float(f"1e{n + 6}") for prefix, n in _POWERS.items() for m in ("meter", "metre")},
    "angstrom": 1e-4, "inch": 25_400.0, "foot": 304_800.0, "yard": 914_400.0, "mile": 1_609_344_000.0,
    "parsec": 3.0856775814913673e22,
    "micron": 1.0, "um": 1.0, "µm": 1.0, "μm": 1.0, "nm": 1e-3, "mm": 1e3, "cm": 1e4, "m": 1e6, "Å": 1e-4,
}  # fmt: skip


def micrometers(unit: str | None) -> float | None:
    """How many micrometres one `unit` is; None where it is no known unit of length."""
    return None if unit is None else _MICROMETERS.get(unit)
