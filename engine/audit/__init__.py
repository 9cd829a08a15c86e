"""Pictures and reports for auditors, generated from the machine and the traces."""
