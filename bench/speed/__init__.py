"""Speed of training beside XARES-LLM's: see bench/train_speed.py."""
