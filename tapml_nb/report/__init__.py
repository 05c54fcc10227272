"""Reports: what a session knows, frozen, as frames, figures and pages."""

from tapml_nb.report.causes import Cause, Culprit
from tapml_nb.report.findings import RunInfo
from tapml_nb.report.report import Report

__all__ = ["Cause", "Culprit", "Report", "RunInfo"]
