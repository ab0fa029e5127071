"""BERT and XLM-R: configuration, network, conversion of weights."""
