"""Process ``longshore-lifecycle``: the engine, and the only writer of durable state."""
