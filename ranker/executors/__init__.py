"""Where workers run; placement only, no state."""
