"""The `ccld` command."""

from .main import convert_main, export_main, main, run_reporting_errors

__all__ = ["convert_main", "export_main", "main", "run_reporting_errors"]
