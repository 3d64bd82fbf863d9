"""The network: who we are, what is on the wire, and how it gets there."""
