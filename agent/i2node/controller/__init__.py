"""The management server: an HTTP API that registers nodes, keeps rules and drives the agents."""
