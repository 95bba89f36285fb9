"""Result files in, HTML files out. A leaf: it reads files, and nothing but the command line imports it."""

from divalign.report.page import write_report
from divalign.report.separation import write_separation

__all__ = ["write_report", "write_separation"]
