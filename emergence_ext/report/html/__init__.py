"""The report: a run directory in, one HTML file that opens offline out."""

from emergence_ext.report.html.write import write_report

__all__ = ["write_report"]
