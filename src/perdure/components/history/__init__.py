"""History stores."""
