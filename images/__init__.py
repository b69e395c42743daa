"""Library of lifecycle, and its worker process: registries, content, layers, snapshots."""
