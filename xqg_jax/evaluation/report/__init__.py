"""The report: one HTML page with plots."""
