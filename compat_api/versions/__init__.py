"""Library: what older versions of the API said differently, one file a version."""
