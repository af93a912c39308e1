"""Sizes, words, senses and differentiable passes of what is trained."""
