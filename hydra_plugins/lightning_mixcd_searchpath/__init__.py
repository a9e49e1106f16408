"""Found by Hydra, which looks into packages only."""
