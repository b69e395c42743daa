"""Library of lifecycle: the gRPC servicers; each converts, calls one function, converts."""
