"""The tuner: measures parameters of single operators against the default, and keeps the better ones as records."""
