"""Result files in, HTML files out. A leaf: it reads files, and nothing but the command line imports it."""

from divalign.report.methods_page import write_methods_page
from divalign.report.page import write_report
from divalign.report.separation import write_separation

__all__ = ["write_methods_page", "write_report", "write_separation"]
