"""Twins in C for a CPU, built at first use where a C compiler is."""
