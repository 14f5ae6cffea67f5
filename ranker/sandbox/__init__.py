"""The only place where a participant's code runs: an encoder server in a container; the client distrusts it."""
