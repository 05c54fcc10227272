"""Moving a model over, and finding what breaks it on the way: questions asked of hybrid runs."""

from tapml_nb.migrate.localization import Localization, localize
from tapml_nb.migrate.migration import ORDERS, Migration, migrate
from tapml_nb.migrate.probes import Answer, Probe, Probes

__all__ = [
    "ORDERS",
    "Answer",
    "Localization",
    "Migration",
    "Probe",
    "Probes",
    "localize",
    "migrate",
]
