"""The Hydra app: `mixcd-record`, `mixcd-train` and `mixcd-report`."""
