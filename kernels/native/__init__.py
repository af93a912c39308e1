"""Twins for a CPU: in C, built at first use where a C compiler is, and by the libraries inside torch's build."""
