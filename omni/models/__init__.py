"""What is computed: decoder, thinker, the facts that shape them, and the tensors of their KV cache."""
