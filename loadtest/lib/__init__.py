"""Compares ringway with other gateways on one machine; see ../README.md."""
