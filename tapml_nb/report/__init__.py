"""Reports: what a session knows, frozen, as frames, figures and pages."""

from tapml_nb.report.report import Culprit, Report, RunInfo

__all__ = ["Culprit", "Report", "RunInfo"]
