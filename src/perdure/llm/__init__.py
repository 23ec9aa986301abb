"""Chat models: logins, wires and facts of the providers; scripted and echoing models that need none."""
