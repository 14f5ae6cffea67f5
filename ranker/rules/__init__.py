"""The rules of the challenge: teams, the deadline, one model of each team; what they say of each submission."""
