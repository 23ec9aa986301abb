"""The contracts between Perdure and the world: Protocols only, with the rules of their state in their docstrings."""
