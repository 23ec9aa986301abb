"""Wires the parts together: a runtime executes instances."""
