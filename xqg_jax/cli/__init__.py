"""The command line `xqg`; alone in knowing gin."""
