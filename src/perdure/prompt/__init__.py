"""Prompts: templates rendered on request, and the system prompt of an agent."""
