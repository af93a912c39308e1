"""The small world: what there is to see, hear and ask."""
