"""What users write workflows with."""
