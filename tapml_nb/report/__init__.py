"""Reports: what a session knows, frozen, as frames, figures and pages."""

from tapml_nb.report.causes import Cause
from tapml_nb.report.report import Culprit, Report, RunInfo

__all__ = ["Cause", "Culprit", "Report", "RunInfo"]
