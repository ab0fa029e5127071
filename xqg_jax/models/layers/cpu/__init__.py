"""Forms of layers for CPUs; see `runtime/cpu_forms.py` for the switch."""
