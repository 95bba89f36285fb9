"""Run folders in, one HTML file out. A leaf: it reads result files, and nothing but the command line imports it."""

from divalign.report.page import write_report

__all__ = ["write_report"]
