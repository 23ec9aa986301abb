"""Adapters: the folder is the port, the file is the technology. They know the ports and the base, nothing else."""
