"""The OCI bundle: opened, read strictly and judged by the specification."""
