"""Library: the little that every process of the engine shares; standard library only."""
