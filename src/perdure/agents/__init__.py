"""Agents: what a user builds, the pure turn, and the loop, an ordinary workflow."""
