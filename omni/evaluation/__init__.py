"""What a model can do, asked and scored."""
