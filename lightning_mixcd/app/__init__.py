"""The command line: `mixcd-record`, `mixcd-train`, `mixcd-report` and `mixcd-influence`."""
