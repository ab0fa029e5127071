"""Files of public data sets, read."""
