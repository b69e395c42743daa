"""All tests; `./test` runs them, and README.md says how the sets differ."""
