"""Carve: operators with their real inputs and outputs as one file that replays anywhere."""

from tapml_nb.carve.bundle import Bundle, BundleError, CarvedTest

__all__ = ["Bundle", "BundleError", "CarvedTest"]
