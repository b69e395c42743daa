"""Library of lifecycle: bridges, addresses, firewall, published ports."""
