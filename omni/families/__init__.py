"""Which model is this: one record of functions for each model_type."""
