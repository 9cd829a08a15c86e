"""The OCI bundle: opened, parsed strictly and validated against the specification."""
