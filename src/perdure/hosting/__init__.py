"""Hosts agents."""
