"""What an auditor reads: pictures and reports, generated from the machine and the traces, never by hand."""
