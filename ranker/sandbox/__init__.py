"""The only place where a participant's code runs: an encoder server in a container, and the client that distrusts it."""
