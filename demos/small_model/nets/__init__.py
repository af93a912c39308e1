"""Shapes, words and differentiable passes of what is trained."""
