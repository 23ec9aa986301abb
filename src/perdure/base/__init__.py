"""Words shared by every layer: errors, clock, codec, records. Imports nothing else of Perdure."""
