"""Who sends a request, and what one may do. Mechanisms and pure rules; `daemon.iam` keeps the people and policies."""
