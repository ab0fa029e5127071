"""Command line `xqg`, the only place that uses gin."""
