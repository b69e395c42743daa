"""Process ``longshored``: Docker's REST dialect in front of lifecycle's gRPC; it owns nothing."""
