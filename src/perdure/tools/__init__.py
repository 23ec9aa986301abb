"""Tools: functions that a model may call, their arguments, and what the model reads of their results."""
