"""Durable execution: replay (pure), activities, worker, scheduler, signals."""
