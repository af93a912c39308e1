"""omni: a runtime for models that see, hear and speak."""
