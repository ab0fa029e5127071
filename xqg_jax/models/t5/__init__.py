"""T5 and mT5: configuration, network, conversion of weights."""
