"""Pure: what follows from what, without clock, chance, input or output."""
