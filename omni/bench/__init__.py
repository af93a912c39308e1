"""How fast each stage is: against transformers on the same weights, and against what this machine can do at best."""
